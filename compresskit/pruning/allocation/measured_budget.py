"""Budgets of what only a built model shows, latency and peak memory: cuts are proposed, built and measured."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import nn

from ...analysis.allocation.measured_aim import Tried, best_share, seek
from ...analysis.measure.latency import latency_ab
from ...analysis.measure.work import figure_of, whole_figure
from ...core.costs import Amount, cost_of, met_already
from ...core.errors import InputError
from ...core.timings.decisions import label
from ...core.types import Loaded, to_device
from ...model.example_inputs import with_batch
from ...training.context import Context
from ..dependency.cost import GraphWork
from ..dependency.graph import Graph
from ..structured.surgery import NotExpressible, cut
from .latency_model import LatencyTable
from .uniform_widths import UniformAllocation
from .units import Allocation

_ROUNDS = 5
_ATTEMPTS = 6  # cuts that are built and measured


class Predictor(Protocol):
    """What is expected of a cut before it is built, and how it is measured."""

    whole: float

    def predicted(self, kept: np.ndarray) -> float:
        """The figure when kept[g] units of group g stay."""
        ...

    def anchor(self, kept: np.ndarray, share: float) -> None:
        """Learn from a measured cut, best a small one."""

    def measured_share(self, module: nn.Module) -> float:
        """The share of the whole model's figure that a cut copy has."""
        ...


class Timed:
    """Latency, from a table of layer times; cuts are timed in turn with the whole model."""

    def __init__(self, loaded: Loaded, graph: Graph, context: Context):
        self._loaded, self._context = loaded, context
        self._example = to_device(with_batch(loaded.example, context.latency_batch), context.device)
        self._table = LatencyTable(loaded, graph, self._example, context.decisions)
        self.whole = self._table.whole_ms

    def predicted(self, kept: np.ndarray) -> float:
        """Milliseconds."""
        return self._table(kept)

    def anchor(self, kept: np.ndarray, share: float) -> None:
        """How much of the time between layers does not shrink."""
        self._table.anchor(kept, share * self.whole)

    def measured_share(self, module: nn.Module) -> float:
        """By interleaved timing; recorded, so that a resume and a replay decide alike."""
        whole = self._loaded.module
        name = f"latency of a cut {label(str(module), str(whole), self._context.latency_batch)}"
        return self._context.decisions(
            name, lambda: 1 / latency_ab(whole, module, self._example, rounds=_ROUNDS).speedup
        )


class Proportional:
    """A figure that is measured on a cut, and until then taken to be in proportion to its formula of the work left.

    Args:
        name: a row of `costs.COSTS` that is predicted.
        loaded: the whole model.
        graph: its groups.
    Raises:
        InputError: if the figure can't be measured here.
    """

    def __init__(self, name: str, loaded: Loaded, graph: Graph):
        self._name, self._loaded, self._formula = name, loaded, GraphWork(graph).cost(name)
        self.whole = float(whole_figure(name, loaded))
        self._of_whole = max(self._formula(np.array([len(group) for group in graph.groups])), 1e-9)

    def predicted(self, kept: np.ndarray) -> float:
        """In the cost's unit."""
        return self.whole * self._formula(kept) / self._of_whole

    def anchor(self, kept: np.ndarray, share: float) -> None:
        """Nothing is learned: what was measured corrects the aim."""

    def measured_share(self, module: nn.Module) -> float:
        """By running the cut copy once."""
        cut_copy = Loaded(module, {}, self._loaded.example)
        return float(figure_of(self._name, cut_copy) or self.whole) / self.whole


def predictor_of(name: str, loaded: Loaded, graph: Graph, context: Context) -> Predictor:
    """How a cost that is not exact is predicted and measured."""
    return Timed(loaded, graph, context) if cost_of(name).known == "timed" else Proportional(name, loaded, graph)


def meet_measured(
    name: str,
    amount: Amount,
    loaded: Loaded,
    graph: Graph,
    allocation: Allocation | UniformAllocation,
    context: Context,
) -> tuple[dict[str, np.ndarray], float, dict[str, Any]]:
    """Choose what stays so that a measured cost is at most an amount, and close to it.

    What is predicted proposes a cut; the cut is built and measured; what was measured corrects the aim, until the
    measured share is within 3 % below the target or six cuts have been tried.

    Returns:
        (units that stay by group, the share aimed at, facts). Where no cut was small enough, the smallest one.
    Raises:
        InputError: if the model meets the amount as it is.
    """
    noun, predictor = cost_of(name).noun, predictor_of(name, loaded, graph, context)
    target = amount.share_of(predictor.whole)
    if target >= 1:
        raise InputError(met_already(name, amount, predictor.whole))

    def measured(keep: dict[str, np.ndarray]) -> float:
        module = loaded.clone().module
        cut(module, graph, graph.keep_ids(keep))
        return predictor.measured_share(module)

    def kept_at(aim: float) -> np.ndarray:
        return allocation.for_budget(predictor.predicted, aim * predictor.whole)

    def propose(aim: float) -> tuple[dict[str, np.ndarray], float]:
        kept = kept_at(aim)
        return allocation.choose(kept), float(predictor.predicted(kept) / predictor.whole)

    def tell(number: int, found: Tried) -> None:
        predicted = f"predicted {found.predicted:.1%}, wanted {target:.1%}"
        context.log(f"{noun}: cut {number} keeps {found.measured:.1%} ({predicted})")

    try:
        least = allocation.at_ratio(1.0, np.floor)
        predictor.anchor(least, measured(allocation.choose(least)))
        tried = seek(target, propose, measured, attempts=_ATTEMPTS, same=_same, tell=tell)
    except NotExpressible:  # the proof will leave out what does not fit; until then there is nothing to measure
        return allocation.choose(kept_at(target)), target, {f"{name}_kept": None}
    best = best_share(tried, target)
    facts = {f"{name}_kept": best.measured, f"{name}_predicted": best.predicted, f"{name}_cuts_measured": len(tried)}
    return best.choice, target, facts


def _same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
