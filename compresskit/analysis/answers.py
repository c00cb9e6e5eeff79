"""What a model answers, as one tensor that a changed model's answer can be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..core.tensors.dtypes import widened
from ..core.types import Inputs, call, main_output
from .answering_layers import answering_layers, are_boxes
from .calibration.hooks import Reached, watch_calls

#: (model, inputs) -> its answer
Answer = Callable[[nn.Module, Inputs], Tensor]
_COMPARED = 4  # batches that tell whether outputs have one shape


def answer_of(whole: nn.Module, changed: nn.Module, batches: Sequence[Inputs]) -> Answer | None:
    """How the answers of two models are read.

    A detector returns boxes that it picked, of which two models have other numbers in another order: its answers are
    what the layers give that no other layer reads, each by its deviation.

    Args:
        whole: a model in eval mode whose parameters may learn.
        changed: the same model with other weights, ranks or channels.
        batches: inputs.
    Returns:
        the function, or None where no answers can be compared.
    """
    if _of_one_shape(whole, changed, batches[:_COMPARED]):
        return plain_answer
    names = [name for name, layer in whole.named_modules() if name and not list(layer.children())]
    held = dict(changed.named_modules())
    found = [name for name in answering_layers(whole, batches[0], names) if name in held]
    if not found:
        return None
    with torch.no_grad():
        first = _calls(whole, batches[0], found)
    scales = [1 / float(torch.cat(parts).std().clamp(min=1e-12)) for parts in first.values()]
    counts = {name: len(parts) for name, parts in first.items()}
    return lambda module, inputs: torch.cat(
        [scale * part for scale, parts in zip(scales, _calls(module, inputs, counts).values(), strict=True)
         for part in parts]
    )  # fmt: skip


def plain_answer(module: nn.Module, inputs: Inputs) -> Tensor:
    """The output itself, or the first of several."""
    return widened(main_output(call(module, inputs)))


@torch.no_grad()
def _of_one_shape(whole: nn.Module, changed: nn.Module, batches: Sequence[Inputs]) -> bool:
    """Whether both models' outputs have one shape, and are no boxes."""
    for inputs in batches:
        first = call(whole, inputs)
        second = first if changed is whole else call(changed, inputs)
        if are_boxes(first) or main_output(first).shape != main_output(second).shape:
            return False
    return True


def _calls(module: nn.Module, inputs: Inputs, names: Sequence[str] | Mapping[str, int]) -> dict[str, list[Tensor]]:
    """What layers give in each of their calls, flat, in the order of their names.

    Args:
        module: the model.
        inputs: of one batch.
        names: the layers; a mapping says how often each is called, and the run ends with the last of these calls: what
            follows in a detector picks boxes, and takes longer than its layers do.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    missing = sum(names.values()) if isinstance(names, Mapping) else None

    def record(name: str, _inputs: tuple, _named: dict, output: Any) -> None:
        nonlocal missing
        found[name].append(widened(main_output(output)).flatten())
        if missing is not None:
            missing -= 1
            if not missing:
                raise Reached

    with watch_calls(module, record, names), suppress(Reached):
        call(module, inputs)
    return found
