"""Rank rules: one candidate for each layer, or None to leave the layer as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...analysis.allocation.allocate import allocate
from ...analysis.measure.work import Work
from ...core.costs import cost_of
from ...core.errors import GuardMissed
from ..options import DecomposeOptions
from ..surgery.find_layers import Site
from .candidates import Candidate, Layer

Choices = list[Candidate | None]

#: layers are not worth looking at that together hold at most this share of what a budget takes away, where the others
#: hold so many times as much as goes
_NEGLIGIBLE, _AMPLE = 0.05, 1.5


@dataclass(frozen=True)
class Totals:
    """The whole model before the step, from measurement: what layers outside the plan cost stays."""

    work: Work
    bytes_per_param: float
    latency_ms: float = 0.0


def by_energy(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """The cheapest candidate that keeps a share of the energy: 1 - error^2."""
    return [_cheapest(layer, lambda one: one.error**2 <= 1 - options.energy + 1e-12) for layer in layers]


def by_error(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """The cheapest candidate within a relative error."""
    return [_cheapest(layer, lambda one: one.error <= options.max_error) for layer in layers]


def by_ratio(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """The most accurate candidate within the same share of its MACs (an embedding: parameters) in every layer."""

    def within(layer: Layer, one: Candidate) -> bool:
        if layer.site.geometry.form == "embedding":
            return one.params <= options.keep_ratio * layer.site.params
        return one.macs <= options.keep_ratio * layer.site.macs

    return [_most_accurate([one for one in layer.candidates if within(layer, one)]) for layer in layers]


def by_fixed_rank(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """The most accurate of the kinds at the one rank."""
    return [_most_accurate(layer.candidates) for layer in layers]


def by_given_ranks(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """The most accurate of the kinds at each layer's own rank."""
    return [_most_accurate(layer.candidates) for layer in layers]


def by_evbmf(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """The cheapest kind at the ranks that variational Bayes gives it, which all keep what is not noise."""
    return [_cheapest(layer, lambda one: True) for layer in layers]


def by_budget(layers: list[Layer], options: DecomposeOptions, totals: Totals) -> Choices:
    """Least total loss within the budget; every layer may also stay.

    Raises:
        GuardMissed: if the smallest ranks are still above the budget, with the least that can be reached.
    """
    layer_cost, budget, whole, unit = budget_terms(options, totals)
    kept = whole - sum(layer_cost(layer, None) for layer in layers)
    rows: list[list[Candidate | None]] = [[None, *layer.candidates] for layer in layers]
    costs = [[layer_cost(layer, one) for one in row] for layer, row in zip(layers, rows, strict=True)]
    losses = [[0.0 if one is None else one.loss for one in row] for row in rows]
    chosen = allocate(costs, losses, budget - kept)
    if chosen is None:
        least = kept + sum(min(row) for row in costs)
        raise GuardMissed(
            f"{unit} cannot come down to {budget:,.6g} by decomposition: the smallest ranks leave {least:,.6g} "
            f"of {whole:,.6g}; set the target above {least / whole:.3f} of the model, or prune first"
        )
    return [row[index] for row, index in zip(rows, chosen, strict=True)]


def negligible(sites: Sequence[Site], options: DecomposeOptions, totals: Totals) -> list[str]:
    """The smallest layers, which a budget can do without; fully connected layers of VGG under one of MACs.

    None are where layers were named, and of a budget in time, which a layer's cost does not tell.
    """
    if options.rank_by != "budget" or options.layers or options.timed_target():
        return []
    layer_cost, budget, whole, _ = budget_terms(options, totals)
    costs = {site.name: layer_cost(Layer(site), None) for site in sites}
    found, held = [], 0.0
    for name in sorted(costs, key=lambda name: costs[name]):
        held += costs[name]
        if held > _NEGLIGIBLE * (whole - budget):
            break
        found.append(name)
    ample = sum(costs.values()) - sum(costs[name] for name in found) >= _AMPLE * (whole - budget)
    return found if ample else []


def budget_terms(
    options: DecomposeOptions, totals: Totals
) -> tuple[Callable[[Layer, Candidate | None], float], float, float, str]:
    """(cost of a layer under a choice, budget for the whole model, the model's cost now, name of the unit)."""
    ((name, amount),) = options.targets().items()
    cost = cost_of(name)
    if cost.known == "timed":
        if totals.latency_ms is None:
            raise TypeError(f"{name} was not measured")
        return _latency, amount.of(totals.latency_ms), totals.latency_ms, cost.with_unit()
    formula = cost.formula()

    def layer_cost(layer: Layer, one: Candidate | None) -> float:
        return formula(_work(layer, one, totals.bytes_per_param))

    whole = formula(totals.work)
    return layer_cost, amount.of(whole), whole, cost.with_unit()


def _work(layer: Layer, one: Candidate | None, itemsize: float) -> Work:
    site = layer.site
    if one is None:
        return site.work_of([site.geometry], itemsize)
    looked_up = site.geometry.in_channels * one.ranks[0] if site.geometry.form == "embedding" else 0
    read_bytes = (one.params - looked_up) * itemsize
    return Work({round(8 * itemsize): one.macs}, one.params, one.params * itemsize, read_bytes, one.outputs * itemsize)


def predicted_latency_share(layers: list[Layer], choices: Choices, totals: Totals) -> float | None:
    """The model's latency after the choices over its latency before, as the layers' own timings add up to.

    Returns:
        the share, or None where not all that was chosen has been timed.
    """
    chosen = [(layer, one) for layer, one in zip(layers, choices, strict=True) if one is not None]
    if not totals.latency_ms or any(one.latency_ms is None for _, one in chosen):
        return None
    return 1 - sum(_latency(layer, None) - _latency(layer, one) for layer, one in chosen) / totals.latency_ms


def _latency(layer: Layer, one: Candidate | None) -> float:
    found = layer.latency_ms if one is None else one.latency_ms
    if found is None:
        raise TypeError(f"layer {layer.site.name!r} was not timed")
    return found


def _cheapest(layer: Layer, allowed: Callable[[Candidate], bool]) -> Candidate | None:
    found = [one for one in layer.candidates if allowed(one)]
    return min(found, key=lambda one: (one.macs, one.params, one.error), default=None)


def _most_accurate(candidates: list[Candidate]) -> Candidate | None:
    return min(candidates, key=lambda one: (one.error, one.macs, one.params), default=None)
