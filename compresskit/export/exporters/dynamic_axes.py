"""Dimensions of inputs that a graph leaves free: which they are, and whether the model takes other sizes there."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...core.errors import InputError, described
from ...core.types import Inputs, call
from ...model.example_inputs import with_batch

#: of one tensor: dimension -> name
Axes = dict[int, str]

_LARGEST_STEP = 32  # sizes stay multiples of what windows and strides divide them into
_BATCH = 3


def free_axes(module: nn.Module, example: Inputs, names: Sequence[str]) -> list[Axes]:
    """Which dimensions of each input carry the names, of those in which the model takes other sizes.

    `batch` is the first dimension of every tensor; `height` and `width` are the last two of images (batch, channels,
    height, width); `length` is the second of ids, masks and waveforms, and of features the second (batch, length,
    features) or the third (batch, channels, length), whichever the model takes.

    Args:
        module: the model.
        example: inputs that it takes.
        names: of `options.DIMENSIONS`.
    Returns:
        dimension -> name, for each tensor in the order of `leaves`.
    Raises:
        InputError: if no input has such a dimension, or the model takes no other size there.
    """
    tensors = leaves(example)
    keys = list(example) if isinstance(example, Mapping) else [""] * len(tensors)
    found: list[Axes] = [{} for _ in tensors]
    for name in names:
        reason = ""
        for candidate in _candidates(tensors, name):
            taken, why = _taken(module, example, candidate)
            reason = reason or why
            if taken is not None:
                for axes, more, key in zip(found, candidate, keys, strict=True):
                    prefix = "decoder_" if name == "length" and key.startswith("decoder_") else ""
                    axes.update(dict.fromkeys(more, f"{prefix}{name}"))
                break
        else:
            reason = f"the model takes no other size there ({reason})" if reason else "no input has such a dimension"
            raise InputError(f"dynamic {name!r}: {reason}; leave it out of --dynamic")
    return found


@torch.no_grad()
def fixes_batch(module: nn.Module, example: Inputs) -> bool:
    """Whether a model returns a list with an entry an example, as detectors do: a graph returns one number of them."""
    try:
        outputs = call(module, with_batch(example, 1))
        return isinstance(outputs, list) and len(outputs) == 1 and len(call(module, with_batch(example, 2))) == 2
    except Exception:  # anybody's code: torch.export says what is wrong
        return False


def leaves(inputs: Any) -> list[Tensor]:
    """The tensors of inputs, in their order."""
    return pytree.tree_leaves(inputs)


def resized(inputs: Inputs, axes: Sequence[Axes], size_of: Callable[[int, str], int]) -> Inputs:
    """Inputs of other sizes in named dimensions; values repeat or end there.

    Args:
        inputs: one batch.
        axes: of each tensor.
        size_of: (size, name) -> another size.
    """
    made = []
    tensors, structure = pytree.tree_flatten(inputs)
    for tensor, named in zip(tensors, axes, strict=True):
        for axis, name in named.items():
            wanted = torch.arange(size_of(tensor.shape[axis], name)) % max(tensor.shape[axis], 1)
            tensor = tensor.index_select(axis, wanted)
        made.append(tensor)
    return pytree.tree_unflatten(made, structure)


def second_size(module: nn.Module, example: Inputs, axes: Sequence[Axes]) -> Inputs:
    """Inputs that differ from the example in every named dimension, and that the model takes.

    Raises:
        InputError: if it takes none of those that are tried.
    """
    inputs, reason = _taken(module, example, axes)
    if inputs is None:
        names = ", ".join(dict.fromkeys(name for named in axes for name in named.values()))
        raise InputError(f"dynamic {names!r}: the model takes no other sizes there at once ({reason})")
    return inputs


def with_mask(module: nn.Module, example: Inputs) -> Inputs:
    """Token ids with the mask that a transformers model takes beside them, so that texts of one batch may differ."""
    takes = inspect.signature(module.forward).parameters
    if not isinstance(example, Mapping) or "input_ids" not in example or "attention_mask" not in takes:
        return example
    return {"attention_mask": torch.ones_like(example["input_ids"])} | dict(example)


def _candidates(tensors: list[Tensor], name: str) -> Iterator[list[Axes]]:
    """Choices of the dimensions of that name, the likeliest first; none where no input has one."""
    choices = [_choices(tensor, name) for tensor in tensors]
    for chosen in itertools.product(*choices):
        if any(axis is not None for axis in chosen):
            yield [{} if axis is None else {axis: name} for axis in chosen]


def _choices(tensor: Tensor, name: str) -> tuple[int | None, ...]:
    if name == "batch":
        return (0,) if tensor.dim() else (None,)
    if name == "length":
        return {2: (1,), 3: (1, 2, None)}.get(tensor.dim(), (None,))
    image = tensor.dim() == 4 and tensor.is_floating_point()
    return (2 if name == "height" else 3,) if image else (None,)


@torch.no_grad()
def _taken(module: nn.Module, example: Inputs, axes: Sequence[Axes]) -> tuple[Inputs | None, str]:
    """Inputs of other sizes that a model takes; else None, and why it takes none."""
    reason = ""
    for grows in (True, False):
        inputs = resized(example, axes, partial(_another, grows=grows))
        try:
            call(module, inputs)
        except Exception as error:  # anybody's code
            reason = reason or described(error)
            continue
        return inputs, ""
    return None, reason


def _another(size: int, name: str, *, grows: bool) -> int:
    if name == "batch":
        return _BATCH if grows else 2
    step = math.gcd(size, _LARGEST_STEP)
    step = max(step // 2, 1) if step == size else step
    return size + step if grows else max(size - step, 1)
