"""What a model answers, as one tensor that a changed model's answer can be compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.tensors.dtypes import widened
from ..core.types import Inputs, call, main_output
from .answering_layers import answering_layers
from .calibration.hooks import watch_calls

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
        scales = [1 / float(part.std().clamp(min=1e-12)) for part in _parts(whole, batches[0], found)]
    return lambda module, inputs: torch.cat(
        [scale * part.flatten() for scale, part in zip(scales, _parts(module, inputs, found), strict=True)]
    )


def plain_answer(module: nn.Module, inputs: Inputs) -> Tensor:
    """The output itself, or the first of several."""
    return widened(main_output(call(module, inputs)))


@torch.no_grad()
def _of_one_shape(whole: nn.Module, changed: nn.Module, batches: Sequence[Inputs]) -> bool:
    """Whether both models' outputs have one shape, and are no boxes."""
    for inputs in batches:
        first = call(whole, inputs)
        second = first if changed is whole else call(changed, inputs)
        if _are_boxes(first) or main_output(first).shape != main_output(second).shape:
            return False
    return True


def _are_boxes(outputs: Any) -> bool:
    images = outputs if isinstance(outputs, list | tuple) else [outputs]
    return any(isinstance(image, Mapping) and "boxes" in image for image in images)


def _parts(module: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[Tensor]:
    """What layers give in one run of a model, in the order of their names."""
    found: dict[str, Tensor] = {}

    def record(name: str, _inputs: tuple, _named: dict, output: Any) -> None:
        found[name] = widened(main_output(output))

    with watch_calls(module, record, names):
        call(module, inputs)
    return [found[name] for name in names]
