"""torch.compile, with integer kernels on x86."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import require
from ...core.types import Inputs, as_arguments
from ..exporters.lowered_layers import decomposed
from ..exporters.with_past import completed
from .exported import Exported, InputSpec, Runner


def inductor(exported: Exported) -> nn.Module:
    """The exported program through torch.compile, with oneDNN's integer kernels where torchao can place them.

    What is lowered to integer kernels takes the example's batch size alone; other batches go through it in parts.
    """
    lowering = require("torchao.quantization.pt2e.lowering", "quant")
    # its import is what registers the patterns of integer kernels
    require("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer", "quant")
    import torch._inductor.config as settings

    if exported.program is None:
        raise TypeError("inductor compiles an exported program, and there is none")
    decomposed()
    program = exported.program.module()
    args = as_arguments(program, exported.example)
    # constant folding of weights is what the integer patterns wait for
    settings.freezing = True
    with torch.no_grad():
        lowered = not args[1]
        program = lowering.lower_pt2e_quantized_to_x86(program, args[0]) if lowered else program
        compiled = torch.compile(program)
        compiled(*args[0], **args[1])

    def run(inputs: Inputs) -> Any:
        positional, named = as_arguments(program, completed(inputs, exported.example))
        with torch.no_grad():
            return compiled(*positional, **named)

    tensors = args[0] if lowered and all(isinstance(one, Tensor) for one in args[0]) else ()
    specs = tuple(InputSpec(f"input_{place}", tuple(one.shape), one.dtype) for place, one in enumerate(tensors))
    return Runner(run, program, specs).in_batches()
