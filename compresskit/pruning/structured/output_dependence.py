"""How much the output depends on the layers that a cut touches: a proof by outputs says little of those it ignores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import described
from ...core.tensors.dtypes import fit_inputs
from ...core.tensors.modules import get_module
from ...core.tensors.randomness import same_draws
from ...core.types import Inputs, call
from ..dependency.graph import Graph
from ..dependency.modes import plain_kernels, unchanged_attributes
from .equivalence import largest_difference, tensors_of

Weights = dict[str, list[Tensor]]
_NAMED = 2  # layers that the note names


def weak_layers_note(
    whole: nn.Module,
    example: Inputs,
    graph: Graph,
    keep: dict[str, np.ndarray],
    threshold: float,
    log: Callable[[str], None],
) -> list[str]:
    """A line that names the cut layers which hardly move the output; none for an ordinary model.

    Args:
        whole: the uncut model in the precision of the proof; it stays as it is.
        example: inputs.
        graph: its graph.
        keep: units that stay, by group that is cut.
        threshold: smallest effect, relative to the largest output, of which the proof says enough.
        log: takes a line where the effect cannot be measured.
    """
    try:
        names = weak_layers(whole, example, cut_weights(whole, graph, keep), threshold)
    except Exception as error:  # forward is anybody's code; the cut is proven with or without this note
        log(f"how much the output depends on the cut layers was not measured: {described(error)}")
        return []
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = (", " if more else " and ").join(names[:_NAMED]) + more
    mantissa, exponent = f"{threshold:.0e}".split("e")
    return [
        f"the proof says little of {listed}: changing {'it' if len(names) == 1 else 'them'} moves the output by less "
        f"than {mantissa}e{int(exponent)} of its largest value; the example or the weights may be degenerate"
    ]


def cut_weights(whole: nn.Module, graph: Graph, keep: dict[str, np.ndarray]) -> Weights:
    """Weights (of two dimensions or more) that a cut touches, by layer, in the order in which the model holds them."""
    touched = {id(m.stored) for group in graph.groups if group.name in keep for m in group.members}
    found: Weights = {}
    for stored in graph.trace.stored.values():
        if id(stored) not in touched or stored.tensor.dim() < 2:
            continue
        layer, _, name = stored.names[0].rpartition(".")
        found.setdefault(layer or name, []).append(getattr(get_module(whole, layer), name))
    return found


def weak_layers(whole: nn.Module, example: Inputs, weights: Weights, threshold: float) -> list[str]:
    """Layers of which even a change as large as their weights moves the output by less than a threshold.

    The gradient of a random projection of the output finds them: the product of its norm with the weights' norm
    estimates from above how far a change of that size moves the output. Since a gradient also vanishes where forward
    rounds, saturates or takes none, the layers found are then changed at random, in forward runs without gradients.

    Args:
        whole: the model; it stays as it is.
        example: inputs.
        weights: the weights to look at, by layer.
        threshold: relative to the largest finite output.
    Returns:
        names, in the order of `weights`; empty where the output has no elements.
    """
    example = fit_inputs(whole, example)

    def forward() -> list[Tensor]:
        with unchanged_attributes(whole), plain_kernels(whole), same_draws():
            return tensors_of(call(whole, example))

    with torch.no_grad():
        before = [tensor.clone() for tensor in forward()]
    if not any(tensor.numel() for tensor in before):
        return []
    scale = max(_largest(tensor) for tensor in before) or 1.0
    try:
        effects = _effects(forward, weights)
        suspects = [name for name in weights if not effects[name] >= threshold * scale]
    except RuntimeError:  # no gradient reaches the output
        suspects = list(weights)

    def still(count: int) -> bool:
        """Whether changing the first suspects together leaves the output where it is."""
        with torch.no_grad(), _changed([tensor for name in suspects[:count] for tensor in weights[name]]):
            return largest_difference(before, forward()) < threshold

    if not suspects or still(len(suspects)):
        return suspects
    low, high = 0, 1  # the first `low` suspects leave the output where it is, the first `high` do not
    while high < len(suspects) and still(high):
        low, high = high, min(2 * high, len(suspects))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if still(middle) else (low, middle)
    return suspects[:low]


def _effects(forward: Callable[[], list[Tensor]], weights: Weights) -> dict[str, float]:
    """Norm of the gradient of a random projection of the output times the norm of the weights, by layer (its largest).

    Raises:
        RuntimeError: if no gradient reaches the output.
    """
    tensors = {id(tensor): tensor for found in weights.values() for tensor in found}
    effects = dict.fromkeys(tensors, 0.0)

    def note(tensor: Tensor) -> None:
        if tensor.grad is None:
            raise RuntimeError("no gradient reaches a weight")
        effects[id(tensor)] = _norm(tensor.grad) * _size(tensor)
        tensor.grad = None  # at once, so that the gradients of a large model are never held together

    with torch.enable_grad(), _leaves(list(tensors.values()), note):
        generator = torch.Generator().manual_seed(0)
        total = torch.zeros((), dtype=torch.float64)
        for output in forward():
            if output.is_floating_point() and output.requires_grad:
                direction = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.device)
                total = total + (torch.where(torch.isfinite(output), output, 0).double() * direction).sum()
        total.backward(inputs=list(tensors.values()))
    return {name: max(effects[id(tensor)] for tensor in found) for name, found in weights.items()}


@contextmanager
def _leaves(tensors: list[Tensor], note: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, tensors take gradients, each handed to `note`; afterwards they are as before."""
    before = [(tensor, tensor.requires_grad, tensor.grad) for tensor in tensors]
    handles = []
    try:
        for tensor in tensors:
            tensor.grad = None
            tensor.requires_grad_(True)
            handles.append(tensor.register_post_accumulate_grad_hook(note))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for tensor, required, gradient in before:
            tensor.requires_grad_(required)
            tensor.grad = gradient


@contextmanager
def _changed(tensors: list[Tensor]) -> Iterator[None]:
    """While open, weights are half what they were and half noise, of unchanged norm: larger ones would amplify."""
    before = [(tensor, tensor.clone()) for tensor in tensors]
    generator = torch.Generator().manual_seed(1)
    try:
        for tensor, _ in before:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            noise *= _size(tensor) / tensor.numel() ** 0.5
            tensor.copy_((tensor + noise.to(tensor)) / 2**0.5)
        yield
    finally:
        for tensor, values in before:
            tensor.copy_(values)


def _size(tensor: Tensor) -> float:
    """The norm of a weight; of one that is all zero, the norm with rows of unit length."""
    return _norm(tensor.detach()) or tensor.shape[0] ** 0.5


def _norm(tensor: Tensor) -> float:
    return float((tensor.abs() if tensor.is_complex() else tensor).double().norm())


def _largest(tensor: Tensor) -> float:
    values = tensor.abs() if tensor.is_complex() else tensor.double()
    return float(torch.where(torch.isfinite(values), values, 0).abs().max()) if tensor.numel() else 0.0
