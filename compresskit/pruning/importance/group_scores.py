"""Scores of every group's units by a criterion."""

from __future__ import annotations

import numpy as np

from ...core.costs import COSTS
from ...core.types import Loaded
from ...training.context import Context
from ..allocation.allocation import whole_counts
from ..dependency.cost import GraphWork
from ..dependency.graph import Graph
from ..options import PruneOptions
from ..tables import CRITERIA
from .calibration_statistics import Evidence


def evidence_for(loaded: Loaded, graph: Graph, options: PruneOptions, context: Context) -> Evidence:
    """What the criterion looks at."""
    return Evidence(
        loaded, graph, context, reduction=options.reduction, samples=options.samples,
        points=options.positions_per_sample, what=f"criterion {options.criterion!r}",
    )  # fmt: skip


def score_groups(graph: Graph, evidence: Evidence, options: PruneOptions) -> dict[str, np.ndarray]:
    """Normalized scores of every group's units."""
    criterion = CRITERIA.load(options.criterion)
    raw = {group.name: criterion(group, evidence).numpy() for group in graph.groups}
    if options.normalize not in COSTS:
        return {name: normalized(scores, options.normalize) for name, scores in raw.items()}
    cost, whole = GraphWork(graph).cost(options.normalize), whole_counts(graph)
    for number, group in enumerate(graph.groups):
        fewer = whole.copy()
        fewer[number] -= 1
        raw[group.name] = raw[group.name] / max(cost(whole) - cost(fewer), 1.0)
    return raw


def normalized(scores: np.ndarray, how: str) -> np.ndarray:
    """Scores divided by their group's mean, max, sum or median."""
    if how == "none":
        return scores
    scale = float(getattr(np, how)(scores))
    return scores / scale if scale > 0 else scores
