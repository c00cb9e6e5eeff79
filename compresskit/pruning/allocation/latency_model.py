"""Measured time as a function of how many units stay: each layer is timed at a few widths, the rest in proportion."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.measure.latency import latency_ab, layer_inputs, take_turns
from ...core.timings.decisions import Decisions, label
from ...core.types import Inputs, Loaded
from ..dependency.cost import widths
from ..dependency.graph import Graph

_Layer = nn.Linear | nn.modules.conv._ConvNd
#: shares of a layer's inputs and outputs at which it is timed
_GRID = (0.25, 0.5, 0.75, 1.0)
_ROUNDS = 5


class LatencyTable:
    """Kept counts -> predicted milliseconds, from measured times of the layers at 16 combinations of widths.

    Between the measured widths times are interpolated bilinearly and never fall as a layer gets wider. What the whole
    model takes beyond its convolutions and linear layers shrinks with the elements that those put out. So this
    is a proposal: what comes of it is to be measured.

    Args:
        loaded: the model.
        graph: its graph.
        example: inputs that are timed; None takes the model's example.
        decisions: where times are kept, and taken from where they are known.
    """

    def __init__(self, loaded: Loaded, graph: Graph, example: Inputs | None = None, decisions: Decisions | None = None):
        example = loaded.example if example is None else example
        decisions = decisions or Decisions()
        layers = {
            name: layer
            for name, layer in loaded.module.named_modules()
            if isinstance(layer, _Layer) and not getattr(layer, "transposed", False)
        }
        keys: list[tuple] = []
        axes = widths(graph, [f"{name}.weight" for name in layers])
        inputs = layer_inputs(loaded.module, example, [name for name in layers if f"{name}.weight" in axes])
        shared: dict[tuple, np.ndarray] = {}
        for name, calls in inputs.items():
            key = (str(layers[name]), *(tuple(x.shape) for x in calls))
            if key not in shared:
                asked = f"widths of {name} {label(*key)}"
                shared[key] = np.array(decisions(asked, partial(_grid_ms, layers[name], calls)))
            keys.append(key)
        self._names = list(inputs)
        rows = [axes[f"{name}.weight"] for name in inputs]
        sizes = [layers[name].weight.shape for name in inputs]
        # (layers, groups + 1): shares of the outputs and inputs as functions of the counts
        self._outputs = np.stack([row[0] / size[0] for row, size in zip(rows, sizes, strict=True)])
        self._inputs = np.stack([row[1] / size[1] for row, size in zip(rows, sizes, strict=True)])
        self._ms = np.stack([shared[key] for key in keys])
        elements = np.array([sum(_output_elements(layers[name], x) for x in calls) for name, calls in inputs.items()])
        self._elements = elements / max(elements.sum(), 1)
        self.whole_ms = decisions(
            f"latency of the model {label(str(loaded.module), sorted(self._names))}",
            lambda: latency_ab(loaded.module, loaded.module, example, rounds=_ROUNDS).baseline_ms,
        )
        # time between layers against the share of elements: in proportion until `anchor` knows a second point
        self._between = np.array([0.0, max(self.whole_ms - self._ms[:, -1, -1].sum(), 0.0)])
        self._whole = max(self._predicted(np.array([len(group) for group in graph.groups])), 1e-9)

    def __call__(self, kept: np.ndarray) -> float:
        """Predicted milliseconds when kept[g] units of group g stay."""
        return self.whole_ms * self._predicted(kept) / self._whole

    def anchor(self, kept: np.ndarray, measured_ms: float) -> None:
        """Learn from a measured cut, best a small one, how much of the time between layers does not shrink."""
        layers, share = self._parts(kept)
        between = max(measured_ms * self._whole / self.whole_ms - layers, 0.0)
        slope = max(self._between.sum() - between, 0.0) / max(1 - share, 1e-9)
        self._between = np.array([self._between.sum() - slope, slope])

    def layers(self, kept: np.ndarray) -> dict[str, float]:
        """Predicted milliseconds of each convolution and linear layer."""
        scaled = self._layers_ms(kept) * self.whole_ms / self._whole
        return dict(zip(self._names, scaled.tolist(), strict=True))

    def _predicted(self, kept: np.ndarray) -> float:
        layers, share = self._parts(kept)
        return float(layers + self._between @ (1.0, share))

    def _parts(self, kept: np.ndarray) -> tuple[float, float]:
        """(milliseconds in layers, share of their output elements that stay)."""
        return self._layers_ms(kept).sum(), self._elements @ (self._outputs @ np.append(kept, 1.0))

    def _layers_ms(self, kept: np.ndarray) -> np.ndarray:
        counts = np.append(kept, 1.0)
        return interpolated(self._ms, self._outputs @ counts, self._inputs @ counts)


def interpolated(ms: np.ndarray, out_shares: np.ndarray, in_shares: np.ndarray) -> np.ndarray:
    """Bilinear interpolation over the grid of shares; beyond its smallest share the edge's value holds.

    Args:
        ms: (layers, out shares, in shares) times on the grid.
        out_shares, in_shares: (layers,).
    Returns:
        (layers,) milliseconds.
    """
    out_low, out_part = _place(out_shares)
    in_low, in_part = _place(in_shares)
    layers = np.arange(len(ms))
    rows = [
        ms[layers, out_low + step, in_low] * (1 - in_part) + ms[layers, out_low + step, in_low + 1] * in_part
        for step in (0, 1)
    ]
    return rows[0] * (1 - out_part) + rows[1] * out_part


def _place(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid's interval that holds each share, and how far into it the share lies."""
    grid = np.array(_GRID)
    low = np.clip(np.searchsorted(grid, shares, side="right") - 1, 0, len(grid) - 2)
    return low, np.clip((shares - grid[low]) / (grid[low + 1] - grid[low]), 0.0, 1.0)


def _grid_ms(layer: _Layer, calls: list[Tensor]) -> list[list[float]]:
    """Times of a layer at every pair of shares, made to grow along both axes."""
    runs = []
    for out_share, in_share in itertools.product(_GRID, _GRID):
        narrow = _narrowed(layer, out_share, in_share)
        channels = narrow.in_features if isinstance(narrow, nn.Linear) else narrow.in_channels
        axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        inputs = [x.narrow(axis, 0, channels).contiguous() for x in calls]
        runs.append(lambda narrow=narrow, inputs=inputs: [narrow(x) for x in inputs])
    best = [one.best_ms for one in take_turns(runs, rounds=_ROUNDS)] if calls else [0.0] * len(runs)
    ms = np.array(best).reshape(len(_GRID), len(_GRID))
    return np.maximum.accumulate(np.maximum.accumulate(ms, axis=0), axis=1).tolist()


def _narrowed(layer: _Layer, out_share: float, in_share: float) -> _Layer:
    """A layer of the same kind with shares of its outputs and of the inputs of each output.

    A grouped convolution keeps the inputs of a group and loses groups.
    """
    weight = layer.weight
    placed: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if isinstance(layer, nn.Linear):
        sizes = (max(1, round(in_share * weight.shape[1])), max(1, round(out_share * weight.shape[0])))
        made: _Layer = nn.Linear(*sizes, bias=layer.bias is not None, **placed)
    else:
        groups = layer.groups if layer.groups == 1 else max(1, round(out_share * layer.groups))
        reads = weight.shape[1] if layer.groups > 1 else max(1, round(in_share * weight.shape[1]))
        puts = max(1, round(out_share * weight.shape[0])) if groups == 1 else groups * (weight.shape[0] // layer.groups)
        kind: Any = type(layer)  # each kind's constructor takes what follows; that of their base does not
        made = kind(
            reads * groups, puts, layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups,
            bias=layer.bias is not None, **placed,
        )  # fmt: skip
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def _output_elements(layer: nn.Module, x: Tensor) -> int:
    return layer(x).numel()
