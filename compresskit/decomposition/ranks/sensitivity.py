"""What replacing one layer does to the whole model: the measured change of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ...analysis.sensitivity.divergence import OutputReference
from ...analysis.sensitivity.loss_curve import loss_at
from .candidates import Candidate, Layer

_PROBED_ERRORS = (0.25, 0.6, 1.0)  # relative errors near which the output change of each layer is measured


def measure_losses(reference: OutputReference, layer: Layer, fit: Callable[[Candidate], nn.Module]) -> None:
    """Give a layer's candidates the loss of the whole model when this layer alone is replaced.

    It is measured at the candidates whose errors are nearest to 0.25, 0.6 and 1; `loss_at` gives the others'. The worst
    candidate is among them because the loss rises steeply there, which the others do not foretell.

    Args:
        reference: the original model's outputs.
        layer: whose candidates are looked at.
        fit: (candidate) -> a module to stand in for the layer.
    """
    probes = [layer.candidates[index] for index in sorted({_nearest(layer.candidates, e) for e in _PROBED_ERRORS})]
    points = [(one.error, reference.with_layer(layer.site.name, fit(one))) for one in probes]
    # a candidate's error is a norm, a divergence grows with its square
    layer.candidates = [replace(one, loss=loss_at(points, one.error, power=2)) for one in layer.candidates]


def _nearest(candidates: list[Candidate], error: float) -> int:
    return min(range(len(candidates)), key=lambda index: (abs(candidates[index].error - error), index))
