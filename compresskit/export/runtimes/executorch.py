"""ExecuTorch."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, first_line, require
from ...core.types import Inputs
from .exported import Exported, InputSpec, Runner, as_outputs, in_order

#: the method of our files that returns what they say of themselves, as bytes of JSON
ABOUT = "compresskit_about"
#: numbers of scalar types in ExecuTorch's files
_TYPES = {0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16,
          6: torch.float32, 7: torch.float64, 11: torch.bool, 15: torch.bfloat16}  # fmt: skip


def executorch(exported: Exported) -> Runner:
    """ExecuTorch's runtime on the CPU, its threads those that are asked for.

    Raises:
        InputError: if executorch is not installed, or the file is none of its programs.
    """
    runtime = require("executorch.runtime", "executorch").Runtime.get()
    portable = require("executorch.extension.pybindings.portable_lib", "executorch")
    require("executorch.kernels.quantized", "executorch")
    try:
        portable._unsafe_reset_threadpool(exported.threads)
        program = runtime.load_program(exported.path)
        method = program.load_method("forward")
        about = program.load_method(ABOUT).execute([])[0] if ABOUT in program.method_names else None
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"ExecuTorch cannot load {exported.path.name!r}: {first_line(error)}") from error
    meta = method.metadata
    tensors = [meta.input_tensor_meta(place) for place in range(meta.num_inputs())]
    specs = tuple(
        InputSpec(f"input_{place}", tuple(one.sizes()), _TYPES.get(int(one.dtype()), torch.float32))
        for place, one in enumerate(tensors)
    )

    def run(inputs: Inputs) -> Any:
        given = in_order(inputs, list(inputs) if isinstance(inputs, dict) else [])
        try:
            outputs = method.execute([tensor.to(spec.dtype) for tensor, spec in zip(given, specs, strict=True)])
        except RuntimeError as error:
            raise InputError(
                f"ExecuTorch cannot run {exported.path.name!r}: {first_line(error)}; its kernels for processors lack "
                "some forms of operators, convolutions of 3 dimensions among them"
            ) from error
        return as_outputs(exported, [one.numpy().copy() for one in outputs if isinstance(one, Tensor)])

    return Runner(run, (program, method), specs, _texts(about)).in_batches()


def _texts(about: Tensor | None) -> dict[str, str]:
    """What our exporter wrote of the model; nothing of another's method of that name."""
    try:
        found = {} if about is None else json.loads(bytes(about.tolist()))
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
