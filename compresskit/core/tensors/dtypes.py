"""Number types: what a model computes in, how inputs are fitted to it, and how it is trained in a wider type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, Protocol, TypeGuard
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .copying import copy_module
from .devices import device_of, to_device

#: number types that weights are computed with; narrower ones (float8, int4) are storage only
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
#: modules whose 16-bit weights are float32 at the moment
_WIDENED: WeakSet[nn.Module] = WeakSet()
_REAL_OF = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


def model_dtype(module: nn.Module) -> torch.dtype | None:
    """The number type that a model computes in: that of its first weight of two dimensions or more.

    Vectors decide only where there is no such weight: norms are often kept in a wider type than what they stand
    between. The type of complex weights is the type of their parts.

    Args:
        module: the model; a quantized layer in it says in `weight_dtype` what its weights are read as.
    Returns:
        one of `FLOATS`, or None for a model without floating tensors.
    """
    fallback = None
    for layer in module.modules():
        # asked of the class: a stand-in for a layer takes an attribute that is read for one that the model reads
        own = layer.weight_dtype if hasattr(type(layer), "weight_dtype") else None
        if isinstance(own, torch.dtype):
            return own
        for parameter in layer._parameters.values():
            if parameter is None:
                continue
            dtype = _REAL_OF.get(parameter.dtype, parameter.dtype)
            if dtype in FLOATS:
                uninitialized = is_lazy(parameter)
                if not uninitialized and parameter.dim() > 1:
                    return dtype
                fallback = fallback or dtype
    if fallback is None:
        buffers = (_REAL_OF.get(buffer.dtype, buffer.dtype) for buffer in module.buffers())
        fallback = next((dtype for dtype in buffers if dtype in FLOATS), None)
    return fallback


def fit_inputs(module: nn.Module, inputs: Any) -> Any:
    """Inputs where a model computes and in its number type; integers and booleans keep their type.

    A model on meta, whose weights are not there yet, leaves inputs where they are.

    Args:
        module: the model.
        inputs: tensors in tuples, lists and mappings.
    """
    device = device_of(module)
    if device.type != "meta" and any(tensor.device != device for tensor in _tensors(inputs)):
        inputs = to_device(inputs, device)
    dtype = model_dtype(module) if _has_floats(inputs) else None
    return inputs if dtype is None else cast(inputs, dtype)


def own_precision(module: nn.Module) -> AbstractContextManager[Any]:
    """Autocast kept out of a model whose own type is a 16-bit one: layers that it leaves alone would meet another."""
    kind = device_of(module).type
    if kind != "meta" and torch.is_autocast_enabled(kind) and model_dtype(module) in HALVES:
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """Floating tensors of a nested structure in another number type; complex ones in the complex type of its width."""
    if isinstance(inputs, Tensor):
        if inputs.dtype in FLOATS:
            return inputs.to(dtype)
        return inputs.to(dtype.to_complex()) if inputs.is_complex() else inputs
    if isinstance(inputs, Mapping):
        return {key: cast(value, dtype) for key, value in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):  # a named tuple
        return type(inputs)(*(cast(value, dtype) for value in inputs))
    if isinstance(inputs, tuple | list):
        return type(inputs)(cast(value, dtype) for value in inputs)
    return inputs


def _has_floats(inputs: Any) -> bool:
    return any(tensor.dtype in FLOATS or tensor.is_complex() for tensor in _tensors(inputs))


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping | tuple | list):
        for value in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(value)


def widened(tensor: Tensor) -> Tensor:
    """A tensor of 16-bit floats in float32; others as they are."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of reals in a last dimension of two; others as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def copy_in(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a module that computes in another number type; complex tensors get the complex type of that width."""

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(dtype.to_complex())
        return tensor.to(dtype) if tensor.dtype in FLOATS else tensor

    copied = copy_module(module)
    # torch converts a buffer of two layers twice, and then they are two
    buffers = {id(one): (one, convert(one)) for one in copied.buffers()}

    def once(tensor: Tensor) -> Tensor:
        return buffers[id(tensor)][1] if id(tensor) in buffers else convert(tensor)

    copied._apply(once)  # type: ignore[no-untyped-call]  # torch annotates no private method
    for layer in copied.modules():
        if _reads(layer):
            layer.read_dtype = dtype
    return copied


class _Reader(Protocol):
    """A layer that turns what it stores into a number type when it is called."""

    read_dtype: torch.dtype


def _reads(layer: object) -> TypeGuard[_Reader]:
    return isinstance(getattr(layer, "read_dtype", None), torch.dtype)


def adopt_dtypes(module: nn.Module, values: Mapping[str, Tensor], where: str) -> list[str]:
    """Give a module's floating tensors the number types of weights that are going to be copied into them.

    Tensors that are not among the weights get the type of most of them, as in `module.to`.

    Args:
        module: changed in place; parameters stay the same objects.
        values: name in the module -> weight.
        where: what to call the weights' origin.
    Returns:
        a line where the module's type changed, else nothing.
    """
    types = {name: value.dtype for name, value in values.items() if value.dtype in FLOATS}
    if not types:
        return []
    before, main = model_dtype(module), Counter(types.values()).most_common(1)[0][0]
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    slots = [(name, tensor) for name, tensor in named if tensor.dtype in FLOATS]
    if all(tensor.dtype == types.get(name, tensor.dtype) for name, tensor in slots):
        return []
    done: set[int] = set()
    for name, tensor in sorted(slots, key=lambda slot: slot[0] not in types):  # of tied names, the one in the file
        if id(tensor) not in done:
            done.add(id(tensor))
            tensor.data = tensor.data.to(types.get(name, main))
    after = model_dtype(module)
    if after == before:
        return []
    names = [str(dtype).removeprefix("torch.") for dtype in (after, before)]
    return [f"{where} are {names[0]}, and so is the model now; it was built in {names[1]}"]


@contextmanager
def float32_weights(module: nn.Module) -> Iterator[bool]:
    """While open, a module's 16-bit weights and buffers are float32; afterwards they have their own type again.

    Updates of a training step are smaller than the steps of a 16-bit type, so training needs wider weights. The
    parameters stay the same objects, and tied ones stay tied.

    Yields:
        whether anything was widened.
    """
    readers = [(layer, layer.read_dtype) for layer in module.modules() if _reads(layer) and layer.read_dtype in HALVES]
    kept = [(tensor, tensor.dtype) for tensor in (*module.parameters(), *module.buffers()) if tensor.dtype in HALVES]
    for tensor, _ in kept:
        tensor.data = tensor.data.float()
        tensor.grad = None
    for layer, _ in readers:
        layer.read_dtype = torch.float32
    if kept:
        _WIDENED.add(module)
    try:
        yield bool(kept)
    finally:
        if kept:
            _WIDENED.discard(module)
        for layer, read_dtype in readers:
            layer.read_dtype = read_dtype
        for tensor, dtype in kept:
            tensor.data = tensor.data.to(dtype)
            tensor.grad = None


def is_widened(module: nn.Module) -> bool:
    """Whether `float32_weights` is open for a module and has widened any of its tensors."""
    return module in _WIDENED


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a module (its first argument) that runs with the module's 16-bit weights in float32."""

    @wraps(function)
    def run(module: nn.Module, *arguments: Any, **named: Any) -> Any:
        with float32_weights(module):
            return function(module, *arguments, **named)

    return run
