"""Candidates and choices as tables and as a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..core.errors import require
from .plan import Candidate, Layer


def choice_table(layers: list[Layer], choices: list[Candidate | None]) -> list[dict[str, Any]]:
    """For each layer what was chosen, and what it costs against before."""
    rows = []
    for layer, one in zip(layers, choices, strict=True):
        site = layer.site
        row = {"layer": site.name, "kind": "kept" if one is None else one.kind}
        row["rank"] = "" if one is None else " x ".join(map(str, one.ranks))
        row["error"] = None if one is None else round(one.error, 4)
        row["macs_before"], row["macs"] = site.macs, site.macs if one is None else one.macs
        row["params_before"], row["params"] = site.params, site.params if one is None else one.params
        rows.append(row)
    return rows


def candidate_table(layers: list[Layer], choices: list[Candidate | None]) -> list[dict[str, Any]]:
    """Every candidate of every layer, the chosen one marked."""
    return [
        {
            "layer": layer.site.name, "chosen": "*" if one == chosen else "", "kind": one.kind,
            "rank": " x ".join(map(str, one.ranks)), "error": round(one.error, 4), "loss": float(f"{one.loss:.4g}"),
            "macs_share": round(one.macs / layer.site.macs, 4) if layer.site.macs else None,
            "params_share": round(one.params / layer.site.params, 4),
            **({"latency_ms": round(one.latency_ms, 4)} if one.latency_ms is not None else {}),
        }
        for layer, chosen in zip(layers, choices, strict=True)
        for one in layer.candidates
    ]  # fmt: skip


def plot(layers: list[Layer], choices: list[Candidate | None], path: Path) -> None:
    """Two panels: error against the share of MACs kept a layer, and the loss at half the layer's MACs by layer.

    Raises:
        InputError: if matplotlib is not installed.
    """
    require("matplotlib", "plot").use("Agg")
    pyplot = require("matplotlib.pyplot", "plot")
    figure, (curves, bars) = pyplot.subplots(1, 2, figsize=(13, max(4, 0.18 * len(layers) + 1.5)))
    colours = pyplot.get_cmap("viridis")
    for number, (layer, chosen) in enumerate(zip(layers, choices, strict=True)):
        colour = colours(number / max(len(layers) - 1, 1))
        front = _front(layer)
        curves.plot([x for x, _ in front], [y for _, y in front], color=colour, linewidth=1)
        if chosen is not None:
            share = (chosen.macs / layer.site.macs) if layer.site.macs else chosen.params / layer.site.params
            curves.plot([share], [chosen.error], "o", color=colour, markersize=4)
    curves.set(
        xlabel="share of the layer's MACs kept", ylabel="relative error", title="best error at each cost (dots: chosen)"
    )
    halves = [_loss_at_half(layer) for layer in layers]
    bars.barh(range(len(layers)), halves, color=[colours(n / max(len(layers) - 1, 1)) for n in range(len(layers))])
    bars.set_yticks(range(len(layers)), [layer.site.name for layer in layers], fontsize=6)
    bars.invert_yaxis()
    bars.set(xlabel="loss at half the layer's MACs", title="sensitivity")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _front(layer: Layer) -> list[tuple[float, float]]:
    """(share of MACs, least error up to there), cheapest first."""
    points, least = [], math.inf
    for one in layer.candidates:
        if one.error < least:
            least = one.error
            points.append((one.macs / layer.site.macs if layer.site.macs else one.params / layer.site.params, least))
    return points


def _loss_at_half(layer: Layer) -> float:
    affordable = [one.loss for one in layer.candidates if one.macs <= layer.site.macs / 2 or not layer.site.macs]
    return min(affordable, default=float("nan"))
