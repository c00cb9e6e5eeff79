"""A model's state and its first run, looked at once where it is loaded: what nothing here can work with is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves, tree_map_only

from ..core.errors import CompresskitError, ForwardError, InputError, described
from ..core.tensors.batches import TARGETS
from ..core.tensors.devices import device_of
from ..core.tensors.dtypes import HALVES, model_dtype
from ..core.tensors.modules import evaluating
from ..core.types import Loaded, call, main_output, to_device

_ALREADY_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_state(module: nn.Module, where: str) -> None:
    """Refuse tensors without values, sparse ones, and those of other quantization libraries; own those of inference.

    Args:
        module: as its factory returned it.
        where: what to call it.
    Raises:
        InputError: naming the layer or tensor and what to give in its place.
    """
    for name, layer in module.named_modules():
        if type(layer).__module__.startswith(_ALREADY_QUANTIZED):
            raise InputError(
                f"{where}: {name or 'it'} is quantized already ({type(layer).__name__} of torch.ao); "
                "start from the float model"
            )
    for name, tensor in _tensors(module):
        if is_traceable_wrapper_subclass(tensor):
            raise InputError(
                f"{where}: {name} is a {type(tensor).__name__}, whose values another library packs; "
                "start from the model before it was quantized or sharded"
            )
        if tensor.is_meta:
            raise InputError(
                f"{where}: {name} is on the meta device and has no values; build the model on the CPU, "
                "or load its weights in the factory"
            )
        if tensor.layout != torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            raise InputError(
                f"{where}: {name} is a {kind} tensor; give its dense values (to_dense()), "
                "which are stored sparsely when prune --granularity weight made their zeros"
            )
    _own_inference_tensors(module)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not is_lazy(tensor):
            yield name, tensor


def _own_inference_tensors(module: nn.Module) -> None:
    """Tensors made in inference mode cannot be changed in place; ordinary copies take their place."""
    copies: dict[int, Tensor] = {}
    for layer in module.modules():
        tables: list[dict[str, Any]] = [layer._parameters, layer._buffers]
        for held in tables:
            for name, tensor in held.items():
                if tensor is None or is_lazy(tensor) or not tensor.is_inference():
                    continue
                if id(tensor) not in copies:
                    value = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    copies[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
                held[name] = copies[id(tensor)]


@torch.no_grad()
def check_forward(loaded: Loaded) -> Loaded:
    """Run a model once on its example.

    A model that changes its inputs in place gets copies of them from then on, so that all that runs it on the same
    tensors sees the same values.

    Raises:
        InputError: if forward raises anything, or a 16-bit model's output is not finite.
    """
    example = to_device(tree_map_only(Tensor, Tensor.clone, loaded.example), device_of(loaded.module))
    versions = [leaf._version for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    where = f"model {loaded.name!r}"
    try:
        outputs = _first_run(loaded.module, example)
    except (CompresskitError, KeyboardInterrupt):
        raise
    except BaseException as error:  # forward is anybody's code; it may even exit
        raise ForwardError(
            f"{where} does not run on its example input: {described(error)}; --input says what it takes"
        ) from error
    if versions != [leaf._version for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]:
        loaded.module.register_forward_pre_hook(_copied, with_kwargs=True)
    _check_outputs(loaded, outputs, where)
    return loaded


def data_remedy(module: nn.Module, inputs: Any) -> str:
    """What may mend inputs of data that a model does not take, as an error's last words.

    Images get the channels of the first convolution; of a mapping some keys may be targets.

    Returns:
        "" where no argument of data and no other name of a key mends anything.
    """
    if isinstance(inputs, Mapping):
        return f"; the data gives {', '.join(map(str, inputs))} as inputs: targets are called {', '.join(TARGETS)}"
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return ""
    given, taken = inputs.shape[1], first.in_channels
    return f"; try --data-arg channels={taken}" if given != taken and 1 in (given, taken) else ""


def _first_run(module: nn.Module, example: Any) -> list[Tensor]:
    """Tensors of the outputs in eval mode; the random state is afterwards as it was."""
    with torch.random.fork_rng(devices=[]), evaluating(module):
        outputs = call(module, example)
    main_output(outputs)  # raises where there is no tensor to look at
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _copied(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return tree_map_only(Tensor, Tensor.clone, (args, kwargs))


def _check_outputs(loaded: Loaded, outputs: list[Tensor], where: str) -> None:
    floats = [tensor for tensor in outputs if tensor.is_floating_point() and tensor.element_size() > 1]
    wrong = any(bool((torch.isnan(tensor) | (tensor == float("inf"))).any()) for tensor in floats)
    if not wrong:
        return
    dtype = model_dtype(loaded.module)
    if dtype in HALVES:
        limit = torch.finfo(dtype).max
        raise InputError(
            f"{where}: its output on the example holds NaN or infinity in {str(dtype).removeprefix('torch.')} (largest "
            f"number {limit:.5g}); load it in bfloat16 or float32, or give another example with --input"
        )
    loaded.notes.append(f"{where}: its output on the example holds NaN or infinity; another --input tells more")
