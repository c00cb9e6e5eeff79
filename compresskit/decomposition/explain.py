"""Candidates and choices as tables and as a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..core.errors import require
from ..core.reporting.figures import new_figure
from .ranks.candidates import Candidate, Layer


def choice_table(layers: list[Layer], choices: list[Candidate | None]) -> list[dict[str, Any]]:
    """For each layer what was chosen, and what it costs against before."""
    rows = []
    for layer, one in zip(layers, choices, strict=True):
        site = layer.site
        row: dict[str, Any] = {"layer": site.name, "kind": "kept" if one is None else one.kind}
        row["rank"] = "" if one is None else " x ".join(map(str, one.ranks))
        row["error"] = None if one is None else round(one.error, 4)
        row["macs_before"], row["macs"] = site.macs, site.macs if one is None else one.macs
        row["params_before"], row["params"] = site.params, site.params if one is None else one.params
        if any(other is not None and other.latency_ms is not None for other in choices):
            row["latency_ms_before"] = None if layer.latency_ms is None else round(layer.latency_ms, 4)
            row["latency_ms"] = row["latency_ms_before"]
            if one is not None:
                row["latency_ms"] = None if one.latency_ms is None else round(one.latency_ms, 4)
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


def compact_table(layers: list[Layer], choices: list[Candidate | None], others: int = 2) -> list[dict[str, Any]]:
    """One row a layer: the choice, and what the best other kinds would have given at its cost.

    Args:
        others: how many other kinds are named, those of least error first. A layer that stays is compared at half its
            cost.
    """
    rows = []
    for layer, chosen in zip(layers, choices, strict=True):
        limit = _share(layer, chosen) if chosen is not None else 0.5
        best: dict[str, Candidate] = {}
        for one in layer.candidates:
            near = _share(layer, one) <= limit + 1e-9 and (chosen is None or one.kind != chosen.kind)
            if near and (one.kind not in best or one.error < best[one.kind].error):
                best[one.kind] = one
        named = sorted(best.values(), key=lambda one: (one.error, one.kind))[:others]
        rows.append(
            {
                "layer": layer.site.name, "candidates": len(layer.candidates),
                "chosen": "kept" if chosen is None else _brief(layer, chosen),
                "best of the other kinds at that cost": "; ".join(_brief(layer, one) for one in named),
            }
        )  # fmt: skip
    return rows


def _brief(layer: Layer, one: Candidate) -> str:
    ranks = " x ".join(map(str, one.ranks))
    return f"{one.kind} {ranks}: error {one.error:.3f} at {_share(layer, one):.2f}"


def _share(layer: Layer, one: Candidate) -> float:
    """Of the layer's MACs; of its parameters where it has no MACs."""
    return one.macs / layer.site.macs if layer.site.macs else one.params / layer.site.params


def plot(layers: list[Layer], choices: list[Candidate | None], path: Path) -> None:
    """Two panels: error against the share of MACs kept a layer, and the loss at half the layer's MACs by layer.

    Raises:
        InputError: if matplotlib is not installed.
    """
    figure, (curves, bars) = new_figure(2, (13, max(4, 0.18 * len(layers) + 1.5)))
    colours = require("matplotlib", "plot").colormaps["viridis"]
    for number, (layer, chosen) in enumerate(zip(layers, choices, strict=True)):
        colour = colours(number / max(len(layers) - 1, 1))
        front = _front(layer)
        curves.plot([x for x, _ in front], [y for _, y in front], color=colour, linewidth=1)
        if chosen is not None:
            curves.plot([_share(layer, chosen)], [chosen.error], "o", color=colour, markersize=4)
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


def _front(layer: Layer) -> list[tuple[float, float]]:
    """(share of MACs, least error up to there), cheapest first."""
    points, least = [], math.inf
    for one in layer.candidates:
        if one.error < least:
            least = one.error
            points.append((_share(layer, one), least))
    return points


def _loss_at_half(layer: Layer) -> float:
    affordable = [one.loss for one in layer.candidates if one.macs <= layer.site.macs / 2 or not layer.site.macs]
    return min(affordable, default=float("nan"))
