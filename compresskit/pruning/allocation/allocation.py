"""What of each group stays: limits from the options, and the share or budget that decides within them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import numpy as np

from ...analysis.allocation.measured_aim import SCATTER, exceeded
from ...core.costs import cost_of, field_of
from ...core.errors import InputError, nearest
from ..dependency.cost import GraphWork
from ..dependency.graph import Graph, Group
from ..options import PruneOptions
from ..tables import SCOPES
from .solved_widths import SolvedAllocation
from .uniform_widths import UniformAllocation
from .units import Allocation, Limits, multiple_for

_ROUNDING = 1e-9  # of a budget: what floating point adds to it
_UNIFORM = ", or let layers of one kind have other widths, with --widths free"
_NO_LESS = "min_keep_ratio, min_channels, protected layers and groups left out allow no less"


def limits_for(groups: list[Group], options: PruneOptions, layers: list[str]) -> dict[str, Limits]:
    """What each group may lose, from rounding, smallest ratios, protection and overrides.

    Raises:
        InputError: if a pattern matches neither a layer nor a group.
    """
    known = list(dict.fromkeys([*layers, *(group.name for group in groups)]))
    for pattern in [*options.protect, *options.ratios]:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InputError(f"no layer or group matches {pattern!r}{nearest(pattern, known)}")
    by_depth = shares_by_depth(groups, options.depth_ratios)
    return {group.name: _limits(group, options, by_depth.get(group.name)) for group in groups}


def shares_by_depth(groups: list[Group], shares: list[float]) -> dict[str, float]:
    """Share that each group loses when the given shares are spread evenly from the first group run to the last."""
    if not shares:
        return {}
    depth = np.linspace(0, 1, len(groups)) if len(groups) > 1 else np.zeros(1)
    spread = np.interp(depth, np.linspace(0, 1, len(shares)), shares)
    return {group.name: float(share) for group, share in zip(groups, spread, strict=True)}


def _limits(group: Group, options: PruneOptions, by_depth: float | None) -> Limits:
    names = {name.rpartition(".")[0] for member in group.members for name in member.stored.names if not member.consumes}
    names.add(group.name)
    parts = [name.split(".") for name in names]
    within = {".".join(path[:depth]) for path in parts for depth in range(1, len(path) + 1)}  # a block holds its layers
    whole = any(fnmatchcase(name, pattern) for pattern in options.protect for name in within)
    # a group's own name goes first: the layer of group conv#2 is called conv, like the first group's
    fixed = options.ratios.get(group.name)
    if fixed is None:
        matching = (share for pattern, share in options.ratios.items() if any(fnmatchcase(n, pattern) for n in names))
        fixed = next(matching, by_depth)
    if fixed is None and options.amount() is None:
        whole = True  # only overrides were given
    units = len(group)
    least = max(min(options.min_channels, units), int(np.ceil(options.min_keep_ratio * units)), 1)
    width = group.members[0].positions.size
    multiple = math.lcm(multiple_for(units, width, options.round_to), group.multiple)
    return Limits(multiple, least, fixed, whole)


def whole_groups_notes(groups: list[Group], limits: Mapping[str, Limits], options: PruneOptions) -> list[str]:
    """Why groups that could lose units lost none: one line a reason, with the options that decide."""
    by_reason: dict[str, list[Group]] = {}
    for group in groups:
        limit = limits[group.name]
        if limit.whole and options.amount() is None:
            reason = "no entry of ratios names"
        elif limit.whole:
            reason = "protect holds"
        elif -(-limit.least // limit.multiple) * limit.multiple >= len(group):
            bounds = f"min_channels {options.min_channels}, min_keep_ratio {options.min_keep_ratio:g}"
            reason = f"{bounds}, round_to {options.round_to} leave no less of"
        else:
            reason = f"the amount asked for, in steps of {limit.multiple}, takes nothing of"
        by_reason.setdefault(reason, []).append(group)
    return [
        f"{reason} {found[0].name} ({len(found[0])} units){f' and {len(found) - 1} more' if len(found) > 1 else ''}"
        for reason, found in by_reason.items()
    ]


def allocation_for(
    graph: Graph,
    scores: Mapping[str, np.ndarray],
    limits: Mapping[str, Limits],
    options: PruneOptions,
    classes: list[list[int]] | None = None,
    losses: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Allocation | UniformAllocation:
    """Scores, pools and limits as one allocation; groups of a class lose the same share.

    Args:
        graph: the groups.
        scores: of each group's units.
        limits: of each group.
        options: with the scope.
        classes: groups that lose the same share.
        losses: of each group's widths, where these are to be solved for.
    """
    scope = SCOPES.load(options.scope)
    if classes is not None:
        return UniformAllocation(graph.groups, scores, scope, limits, classes, losses)
    if losses:
        return SolvedAllocation(graph.groups, scores, limits, losses)
    return Allocation(graph.groups, scores, scope(graph.groups), limits)


def choose(
    graph: Graph, allocation: Allocation | UniformAllocation, options: PruneOptions
) -> tuple[dict[str, np.ndarray], float | None]:
    """Which units stay, and the share of its cost that was aimed at; None where ratios say how much goes."""
    budget = exact_budget(graph, options)
    if budget is not None:
        cost, most = budget
        return allocation.choose(allocation.for_budget(cost, most)), most / cost(whole_counts(graph))
    return allocation.choose(allocation.at_ratio(options.ratio or 0.0)), None


#: (kept counts -> cost, largest cost allowed)
Budget = tuple[Callable[[np.ndarray], float], float]


def exact_budget(graph: Graph, options: PruneOptions) -> Budget | None:
    """The budget, where there is one that need not be measured."""
    for name, amount in options.targets().items():
        if cost_of(name).known == "exact":
            cost = GraphWork(graph).cost(name)
            return cost, amount.of(cost(whole_counts(graph)))
    return None


def whole_counts(graph: Graph) -> np.ndarray:
    """Units of each group of the model as it is."""
    return np.array([len(group) for group in graph.groups])


def counts(graph: Graph, keep: Mapping[str, np.ndarray]) -> np.ndarray:
    """Units of each group that stay."""
    return np.array([int(keep[g.name].sum()) if g.name in keep else len(g) for g in graph.groups])


def distinct(
    graph: Graph, keep: Mapping[str, np.ndarray], others: Mapping[str, dict[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
    """Those of other choices that keep other numbers of units than a choice, and than the others before them."""
    seen, found = {tuple(counts(graph, keep))}, {}
    for name, other in others.items():
        if (kept := tuple(counts(graph, other))) not in seen:
            found[name] = other
            seen.add(kept)
    return found


def missed_budgets(facts: dict[str, Any], target: float | None, options: PruneOptions) -> list[str]:
    """The budget, where the cut exceeds it by more than measurements scatter."""
    if target is None:
        return []
    ((name, _),) = options.targets().items()
    got, allowed = facts[f"{name}_kept"], _ROUNDING if cost_of(name).known == "exact" else SCATTER
    missed = exceeded(name, got, target, tolerance=allowed) if got is not None else ""
    return [f"{missed} ({_NO_LESS})"] if missed else []


def check_budget(
    graph: Graph, limits: Mapping[str, Limits], options: PruneOptions, classes: list[list[int]] | None
) -> None:
    """Whether the options' limits let an exact budget be met.

    Args:
        graph: the groups.
        limits: of each group.
        options: with the budget.
        classes: groups that lose the same share.
    Raises:
        InputError: naming the smallest share that can be reached.
    """
    if options.schedule != "one-shot":  # whose limits hold for each of several cuts
        return
    alike = {group.name: np.zeros(len(group)) for group in graph.groups}
    allocation = allocation_for(graph, alike, limits, options, classes)
    for name, amount in options.targets().items():
        if cost_of(name).known != "exact":
            continue
        cost = GraphWork(graph).cost(name)
        whole, least = cost(whole_counts(graph)), cost(allocation.at_ratio(1.0, np.floor))
        if not whole:
            raise InputError(f"{field_of(name)} says nothing here: the model has no {cost_of(name).noun} to lose")
        if least > amount.of(whole) * (1 + _ROUNDING):
            given, reachable = options.budget()[field_of(name)], math.ceil(1000 * least / whole) / 1000
            raise InputError(
                f"{field_of(name)} {given} cannot be met: min_keep_ratio {options.min_keep_ratio:g}, min_channels "
                f"{options.min_channels}, round_to {options.round_to} and what stays whole leave {least / whole:.1%} "
                f"of the {cost_of(name).noun}; give at least {reachable:g}, or lower them"
                + (_UNIFORM if classes is not None else "")
            )


def budget_notes(facts: dict[str, Any], target: float | None, options: PruneOptions) -> list[str]:
    """What a reader must know where a budget was not met closely from below."""
    if target is None:
        return []
    ((name, _),) = options.targets().items()
    what, got = cost_of(name).noun, facts[f"{name}_kept"]
    if got is None:
        return [f"{what}: not measured again after groups were left out; the report's own measurement holds"]
    asked = f"{what}: asked to keep {target:.1%}, kept {got:.1%}"
    if got > target * (1 + _ROUNDING):
        return [f"{asked}: {_NO_LESS}"]
    if got < target * 0.99:
        tried = facts.get(f"{name}_cuts_measured")
        if tried is not None:
            return [f"{asked}: the largest of {tried} measured cuts that meets it"]
        return [f"{asked}: the next larger step would exceed the budget (round_to {options.round_to})"]
    return []
