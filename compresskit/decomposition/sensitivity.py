"""What replacing one layer does to the whole model: measured output change, measured latency."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.latency import interleaved_ms
from ..core.modules import get_module, set_module
from ..core.types import Inputs, call, main_output, to_device
from .geometry import build
from .kinds import chain_of
from .plan import Candidate, Layer
from .tables import KINDS

_PROBED_ERRORS = (0.25, 0.6)  # relative errors near which the output change of each layer is measured
_LATENCY_CANDIDATES = 8


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

    It is measured at the candidates whose errors are nearest to 0.25 and 0.6; `loss_at` gives the others'.

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


@torch.no_grad()
def measure_latencies(root: nn.Module, layer: Layer, example_dtype: torch.dtype = torch.float32) -> None:
    """Time a layer and at most eight of its candidates on inputs of its own size, interleaved; keep those timed.

    Candidates that are not faster than the layer are dropped.
    """
    count = min(_LATENCY_CANDIDATES, len(layer.candidates))
    picks = torch.linspace(0, len(layer.candidates) - 1, count).round().long().tolist() if count else []
    candidates = [layer.candidates[pick] for pick in dict.fromkeys(picks)]
    plain = get_module(root, layer.site.name)
    chains = [
        nn.Sequential(
            *(build(link, plain.weight) for link in chain_of(KINDS.load(one.kind), layer.site.geometry, one.ranks))
        )
        for one in candidates
    ]
    for parameter in nn.ModuleList(chains).parameters():
        parameter.fill_(0.01)  # uninitialized memory may hold denormals, which are slow
    modules = [copy.deepcopy(plain).eval(), *(chain.eval() for chain in chains)]
    inputs = _example_inputs(layer, plain.weight)
    times = interleaved_ms([lambda module=module: [module(one) for one in inputs] for module in modules])
    layer.latency_ms = times[0]
    layer.candidates = [
        replace(one, latency_ms=ms) for one, ms in zip(candidates, times[1:], strict=True) if ms < times[0]
    ]


def _example_inputs(layer: Layer, like: Tensor) -> list[Tensor]:
    geometry = layer.site.geometry
    if geometry.form == "embedding":
        return [torch.zeros(one.positions, dtype=torch.long, device=like.device) for one in layer.site.calls]
    shapes = [(one.positions, geometry.in_channels, *one.size) for one in layer.site.calls]
    return [torch.full(shape, 0.5, dtype=like.dtype, device=like.device) for shape in shapes]
