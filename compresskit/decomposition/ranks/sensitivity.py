"""What replacing one layer does to the whole model: the measured change of its output."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.tensors.modules import get_module, set_module
from ...core.types import Inputs, call, main_output, to_device
from .candidates import Candidate, Layer

_PROBED_ERRORS = (0.25, 0.6, 1.0)  # relative errors near which the output change of each layer is measured


def output_change(wanted: Tensor, got: Tensor) -> float:
    """How far the model's output moved: mean KL divergence of class probabilities, or relative squared error.

    Args:
        wanted, got: outputs of the original and of the changed model; (batch, classes) are taken for logits.
    """
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        divergence = F.kl_div(
            got.double().log_softmax(1), wanted.double().log_softmax(1), log_target=True, reduction="batchmean"
        )
        return max(divergence.item(), 0.0)
    return ((got - wanted).double().square().sum() / wanted.double().square().sum().clamp_min(1e-30)).item()


@torch.no_grad()
def outputs_of(root: nn.Module, batches: list[Inputs], device: torch.device) -> Tensor:
    """Main outputs over all batches, (samples, ...)."""
    return torch.cat([main_output(call(root, to_device(batch, device))) for batch in batches])


def measure_losses(root: nn.Module, layer: Layer, batches: list[Inputs], wanted: Tensor, fit: Any) -> None:
    """Give a layer's candidates the loss of the whole model when this layer alone is replaced.

    It is measured at the candidates whose errors are nearest to 0.25, 0.6 and 1; `loss_at` gives the others'. The worst
    candidate is among them because the loss rises steeply there, which the others do not foretell.

    Args:
        wanted: the original model's outputs on the batches.
        fit: (candidate) -> a module to stand in for the layer.
    """
    probes = sorted({_nearest(layer.candidates, error) for error in _PROBED_ERRORS})
    kept = get_module(root, layer.site.name)
    points = []
    for index in probes:
        candidate = layer.candidates[index]
        set_module(root, layer.site.name, fit(candidate))
        change = output_change(wanted, outputs_of(root, batches, wanted.device))
        set_module(root, layer.site.name, kept)
        points.append((max(candidate.error, 1e-9), max(change, 1e-12)))
    layer.candidates = [replace(one, loss=loss_at(points, one.error)) for one in layer.candidates]


def loss_at(points: list[tuple[float, float]], error: float) -> float:
    """Loss at a relative error, from measured (error, loss) points: straight lines between them in log-log axes.

    The loss never falls as the error grows. Below the first point it falls with the square of the error; above the last
    it grows with the last segment's power, but at least with the square.
    """
    if error <= 0:
        return 0.0
    logs = [(math.log(x), math.log(y)) for x, y in sorted(points)]
    rising = [(x, max(y for _, y in logs[: index + 1])) for index, (x, _) in enumerate(logs)]
    place = math.log(error)
    if place <= rising[0][0]:
        return math.exp(rising[0][1] + 2 * (place - rising[0][0]))
    for (x0, y0), (x1, y1) in itertools.pairwise(rising):
        if place <= x1:
            return math.exp(y0 + (y1 - y0) * (place - x0) / max(x1 - x0, 1e-12))
    power = 2.0
    if len(rising) > 1 and rising[-1][0] - rising[-2][0] > 0.05:
        power = max((rising[-1][1] - rising[-2][1]) / (rising[-1][0] - rising[-2][0]), 2.0)
    return math.exp(rising[-1][1] + power * (place - rising[-1][0]))


def _nearest(candidates: list[Candidate], error: float) -> int:
    return min(range(len(candidates)), key=lambda index: (abs(candidates[index].error - error), index))
