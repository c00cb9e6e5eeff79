"""How far a model's output moves when something in it changes, measured by running the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.tensors.modules import get_module, set_module
from ...core.types import Inputs, main_output, to_device
from ..answers import Answer, answer_of, plain_answer


def divergence(wanted: Tensor, got: Tensor, class_axis: int | None = None) -> float:
    """Mean KL divergence of class probabilities an example; relative squared error where outputs are no logits.

    Args:
        wanted: outputs of the original, (batch, ...).
        got: outputs of the changed model, of the same shape.
        class_axis: the axis of class logits; None takes axis 1 of (batch, classes), and no axis of other shapes.
    """
    if class_axis is None and wanted.dim() == 2 and wanted.shape[1] > 1:
        class_axis = 1
    if class_axis is None:
        moved, size = (got - wanted).double().square().sum(), wanted.double().square().sum()
        return float(moved / size.clamp_min(1e-30))
    logs = (got.double().log_softmax(class_axis), wanted.double().log_softmax(class_axis))
    return max(float(F.kl_div(*logs, log_target=True, reduction="batchmean")), 0.0)


def class_axis_of(inputs: Inputs, outputs: Tensor) -> int | None:
    """Axis of class logits: 1 of (batch, classes); the last of (batch, length, vocabulary) where tokens are read."""
    if outputs.dim() == 2 and outputs.shape[1] > 1:
        return 1
    reads_tokens = outputs.dim() == 3 and not main_output(inputs).is_floating_point()
    return 2 if reads_tokens and outputs.shape[2] > 1 else None


def mean_divergence(batches: Iterable[Inputs], wanted: Iterable[Tensor], got: Iterable[Tensor]) -> float:
    """`divergence` averaged over the examples of all batches."""
    total, count = 0.0, 0
    for inputs, reference, outputs in zip(batches, wanted, got, strict=True):
        total += divergence(reference, outputs, class_axis_of(inputs, reference)) * len(reference)
        count += len(reference)
    return total / max(count, 1)


class OutputReference:
    """The outputs of a model on batches; tells how far changed versions of the model move from them.

    Of a detector, which returns as many boxes as it finds, they are what its heads give.

    Args:
        root: the model, put in eval mode.
        batches: inputs, kept.
        device: where it runs; None leaves the inputs where they are.
    """

    def __init__(self, root: nn.Module, batches: Iterable[Inputs], device: torch.device | None = None):
        self._batches = [batch if device is None else to_device(batch, device) for batch in batches]
        self._root = root.eval()
        self._answer: Answer = answer_of(root, root, self._batches[:1]) or plain_answer
        self._wanted = self._outputs()

    @torch.no_grad()
    def _outputs(self) -> list[Tensor]:
        return [self._answer(self._root, inputs) for inputs in self._batches]

    def moved(self) -> float:
        """The mean divergence of the model as it is now."""
        return mean_divergence(self._batches, self._wanted, self._outputs())

    def with_layer(self, name: str, replacement: nn.Module) -> float:
        """The mean divergence with one module replaced; the model is restored."""
        original = get_module(self._root, name)
        set_module(self._root, name, replacement)
        try:
            return self.moved()
        finally:
            set_module(self._root, name, original)

    @torch.no_grad()
    def with_weights(self, name: str, weights: Callable[[], dict[str, Tensor]]) -> float:
        """The mean divergence with some parameters of one module at other values, by name; the model is restored."""
        own = {key: tensor for key, tensor in get_module(self._root, name)._parameters.items() if tensor is not None}
        kept = {key: tensor.detach().clone() for key, tensor in own.items()}
        try:
            for key, value in weights().items():
                own[key].copy_(value)
            return self.moved()
        finally:
            for key, value in kept.items():
                own[key].copy_(value)
