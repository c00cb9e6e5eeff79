"""Candidates for each layer: kinds and ranks, their error and their cost."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise, product

import torch
from torch import Tensor

from ..fit.fit import Evidence, fit_activation, fit_weight, relative_error, weight_factors
from ..methods.algebra import squared_singular_values
from ..methods.geometry import chain_outputs, chain_params
from ..methods.kinds import Kind, Ranks, chain_of, compose, split_groups
from ..options import DecomposeOptions
from ..surgery.find_layers import Site
from ..tables import KINDS
from .evbmf import evbmf_rank

_LEVELS = (0.8, 0.6, 0.45, 0.35, 0.25, 0.15)  # shares of the layer's MACs, for kinds whose errors must be computed
_GRID = 10  # values of each rank that are tried together, for kinds with several ranks
_PROMISING = 1.25  # kinds whose factors of the weights err this much more than the best so far are not fitted to data
_LARGE, _FITTED = 100_000, 3  # weights with more elements: ranks at which a kind that can widen is fitted
_CLOSED_FORM_RANKS = 64  # ranks of a kind whose errors follow from one spectrum


@dataclass(frozen=True)
class Candidate:
    """One way to replace one layer.

    Attributes:
        error: relative error under the objective (of weights or outputs).
        macs: per forward pass of the example.
        loss: what the whole model loses by it, where that was measured; otherwise the squared error.
        latency_ms: measured on the layer's own input, or None.
        outputs: elements that its layers put out, per forward pass of the example.
        latency_spread: half of what lies between the quartiles of its times, as a share of the layer's.
    """

    kind: str
    ranks: Ranks
    error: float
    macs: int
    params: int
    loss: float = 0.0
    latency_ms: float | None = None
    outputs: int = 0
    latency_spread: float = 0.0


@dataclass
class Layer:
    """A site with its candidates, cheapest first.

    Attributes:
        latency_ms: measured on the layer's own input, or None.
        slower: how many candidates were left out because they take more time than the layer.
        begun: factors that were found on the way, from which the choice's are fitted sooner (`Evidence.begun`).
        curvature: as `Evidence.curvature`.
    """

    site: Site
    candidates: list[Candidate] = field(default_factory=list)
    latency_ms: float | None = None
    slower: int = 0
    begun: dict[tuple[Kind, Ranks], list[Tensor]] = field(default_factory=dict)
    curvature: Tensor | None = None


def by_cost(one: Candidate) -> tuple:
    """The order of candidates: by MACs, then parameters."""
    return one.macs, one.params, one.error, one.kind, one.ranks


def all_kinds() -> list[str]:
    """What `kind: auto` considers."""
    return list(KINDS)


def kinds_for(site: Site, options: DecomposeOptions) -> list[str]:
    """The kinds that the options allow and the layer takes; layers that a named kind does not fit take svd."""
    names = [name for name in options.considered() if KINDS.load(name).fits(site.geometry.one_group())]
    if options.kind in names:
        return [options.kind]
    if not options.consider and not site.geometry.kernel:
        # its candidates are the dearest to make, and a trained layer's features stand in no order that it could use
        names = [name for name in names if name != "tensor-train"]
    return names


def candidates_of(
    site: Site,
    evidence: Evidence,
    options: DecomposeOptions,
    faster: Callable[[str, list[Ranks]], list[Ranks]] | None = None,
) -> list[Candidate]:
    """All candidates of a layer that cost less than the layer, sorted by MACs, then parameters.

    Args:
        faster: (kind, ranks to choose from) -> those worth fitting; asked where fitting takes long. None for all.
    """
    found: list[Candidate] = []
    for name in kinds_for(site, options):
        kind: Kind = KINDS.load(name)
        choices = [ranks for ranks in _rank_choices(kind, site, evidence, options) if _saves(kind, site, ranks)]
        if faster is not None and choices and not _closed_form(kind, evidence):
            choices = faster(name, choices)
        errors = _errors(kind, site, choices, evidence, found)
        for ranks, error in zip(choices, errors, strict=True):
            chain = chain_of(kind, site.geometry, ranks)
            params, outputs = chain_params(chain), sum(chain_outputs(chain, one) for one in site.calls)
            found.append(Candidate(name, ranks, error, site.macs_of(chain), params, loss=error**2, outputs=outputs))
    return sorted(found, key=by_cost)


def _saves(kind: Kind, site: Site, ranks: Ranks) -> bool:
    return site.saves(chain_of(kind, site.geometry, ranks))


def _rank_choices(kind: Kind, site: Site, evidence: Evidence, options: DecomposeOptions) -> list[Ranks]:
    limits = kind.limits(site.geometry.one_group())
    if options.rank_by == "fixed":
        return [tuple(min(options.rank, limit) for limit in limits)]
    if options.rank_by == "given":
        rank = next(rank for pattern, rank in options.ranks.items() if fnmatchcase(site.name, pattern))
        return [tuple(min(rank, limit) for limit in limits)]
    if options.rank_by == "evbmf":
        return _evbmf_ranks(kind, site, evidence.target, limits, options.round_to)
    if len(limits) == 1:
        return _single_ranks(kind, site, evidence, limits[0], options.round_to)
    return _rank_tuples(kind, site, evidence.target, limits, options.round_to)


def _evbmf_ranks(kind: Kind, site: Site, target: Tensor, limits: Ranks, multiple: int) -> list[Ranks]:
    unfolded = [kind.unfold(part) for part in split_groups(site.geometry, target)]
    if not unfolded[0]:
        return []  # cp has no matrix whose spectrum bounds its rank
    ranks = [max(evbmf_rank(part[mode]) for part in unfolded) for mode in range(len(limits))]
    return [tuple(min(_rounded(rank, multiple), limit) for rank, limit in zip(ranks, limits, strict=True))]


def _rounded(rank: int, multiple: int) -> int:
    return max(-(-rank // multiple) * multiple, 1)


def _values(limit: int, multiple: int, count: int) -> list[int]:
    """Up to `count` ranks between 1 and the limit, multiples where asked for, spread evenly."""
    start = multiple if multiple <= limit else limit
    values = list(range(start, limit + 1, multiple)) or [limit]
    if len(values) <= count:
        return values
    picks = torch.linspace(0, len(values) - 1, count).round().long().tolist()
    return [values[pick] for pick in dict.fromkeys(picks)]


def _single_ranks(kind: Kind, site: Site, evidence: Evidence, limit: int, multiple: int) -> list[Ranks]:
    values = _values(limit, multiple, limit)  # the higher, the dearer
    saving = values[: bisect_left(values, True, key=lambda rank: not _saves(kind, site, (rank,)))]
    if not saving:
        return []
    if _closed_form(kind, evidence):
        picks = torch.linspace(0, len(saving) - 1, min(_CLOSED_FORM_RANKS, len(saving))).round().long().tolist()
        return [(saving[pick],) for pick in dict.fromkeys(picks)]

    def cost(rank: int) -> int:
        return site.macs_of(chain_of(kind, site.geometry, (rank,))) or 1

    counts = [bisect_right(saving, level * (site.macs or 1), key=cost) for level in _LEVELS]
    return [(saving[count - 1],) for count in dict.fromkeys(counts) if count]


def _rank_tuples(kind: Kind, site: Site, target: Tensor, limits: Ranks, multiple: int) -> list[Ranks]:
    """For each cost level the ranks with the smallest sum of cut-off squared singular values over the unfoldings."""
    tails = _tails(kind, site, target)
    count = _GRID if len(limits) <= 2 else 6
    grid = list(product(*(_values(limit, multiple, count if len(limits) > 2 else 2 * count) for limit in limits)))
    bounds = [sum(tail[rank].item() for tail, rank in zip(tails, ranks, strict=True)) for ranks in grid]
    costs = [site.macs_of(chain_of(kind, site.geometry, ranks)) for ranks in grid]
    found = []
    for level in _LEVELS:
        allowed = [index for index, cost in enumerate(costs) if cost <= level * site.macs]
        if allowed:
            found.append(grid[min(allowed, key=lambda index: (bounds[index], costs[index]))])
    return list(dict.fromkeys(found))


def _tails(kind: Kind, site: Site, target: Tensor) -> list[Tensor]:
    """For each unfolding, the squared norm that a rank cuts off, (limit + 1,), summed over groups."""
    totals: list[Tensor] = []
    for part in split_groups(site.geometry, target):
        for mode, unfolded in enumerate(kind.unfold(part)):
            squares = squared_singular_values(unfolded)
            tail = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
            totals[mode : mode + 1] = [totals[mode] + tail if len(totals) > mode else tail]
    return totals


def _closed_form(kind: Kind, evidence: Evidence) -> bool:
    """Whether the error of every rank follows from one spectrum."""
    if evidence.moments is not None:
        return kind.output_side
    return kind in (KINDS.load(name) for name in ("svd", "channel-svd", "input-svd", "spatial-svd"))


def _errors(kind: Kind, site: Site, choices: list[Ranks], evidence: Evidence, found: list[Candidate]) -> list[float]:
    if not choices:
        return []
    if _closed_form(kind, evidence):
        tail = _spectrum_tail(kind, site, evidence)
        return [(max(tail[ranks[0]].item(), 0) / max(tail[0].item(), 1e-30)) ** 0.5 for ranks in choices]
    order = sorted(range(len(choices)), key=lambda index: choices[index])  # ascending, as widening wants it
    fitted = _fitted(order) if kind.widen is not None and evidence.target.numel() > _LARGE else order
    errors = {index: _fitted_error(kind, site, choices[index], evidence, found) for index in fitted}
    costs = [site.macs_of(chain_of(kind, site.geometry, ranks)) for ranks in choices]
    points = sorted((costs[index], error) for index, error in errors.items())
    return [errors[index] if index in errors else _foretold(points, costs[index]) for index in range(len(choices))]


def _fitted(order: list[int]) -> list[int]:
    """Three of all but the largest rank, whose fit alone would take as long as those of the smaller ones together."""
    smaller = order[:-1]
    if len(smaller) < _FITTED:
        return order
    return [smaller[i * (len(smaller) - 1) // (_FITTED - 1)] for i in range(_FITTED)]


def _foretold(points: list[tuple[int, float]], cost: int) -> float:
    """The error at a cost, by its logarithm: a straight line between fitted costs, a parabola beyond the last three.

    From ranks at 15, 25 and 45 % of the multiplications the error at 60 % was foretold within 1 % for two layers of
    ResNet-56 and a random kernel.
    """
    logs = [(own, math.log(max(error, 1e-12))) for own, error in points]
    for (low, before), (high, after) in pairwise(logs):
        if low <= cost <= high:
            return math.exp(before + (after - before) * (cost - low) / max(high - low, 1))
    (first, a), (second, b), (third, c) = logs[-3:]
    slope = (c - b) / (third - second)
    bend = (slope - (b - a) / (second - first)) / (third - first)
    steepest = 2 * min(slope, 0.0)  # errors of ranks that were fitted less well could bend it anywhere
    return math.exp(c + (cost - third) * min(max(slope + bend * (cost - second), steepest), 0.0))


def _fitted_error(kind: Kind, site: Site, ranks: Ranks, evidence: Evidence, found: list[Candidate]) -> float:
    """The error of factors at given ranks, fitted to data where there is some and the weights' promise enough."""
    if evidence.moments is None:
        return fit_weight(kind, site.geometry, ranks, evidence).error
    chain = chain_of(kind, site.geometry, ranks)
    factors = weight_factors(kind, site.geometry, ranks, evidence)
    approximation = compose(site.geometry, chain, factors)
    error = relative_error(site.geometry, evidence.target, approximation, evidence.moments.covariance)
    cost = site.macs_of(chain)
    if error < _PROMISING * min((one.error for one in found if one.macs <= cost), default=1.0):
        error = min(error, fit_activation(kind, site.geometry, ranks, evidence).error)
    return error


def _spectrum_tail(kind: Kind, site: Site, evidence: Evidence) -> Tensor:
    if evidence.moments is None:
        return _tails(kind, site, evidence.target)[0]
    total = torch.zeros(())
    for part, covariance in zip(split_groups(site.geometry, evidence.target), evidence.moments.covariance, strict=True):
        flat = part.flatten(1)
        values = torch.linalg.eigvalsh(flat @ covariance @ flat.mT).flip(0).clamp_min(0)
        total = total + torch.cat([values.flip(0).cumsum(0).flip(0), values.new_zeros(1)])
    return total
