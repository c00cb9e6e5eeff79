"""One width for all layers of a kind: which groups a model's configuration ties together, and allocation over those.

A configuration has one number for the inner width of all layers, one for their heads. Which groups one number decides
is asked of the library's own builder (`model.libraries.geometry`); without one, layers whose names differ by a number
are of one kind.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ...core.errors import InputError
from ...model.libraries.geometry import Fact, Field, Geometry, pattern_of
from ..dependency.graph import Group
from .solved_widths import SolvedAllocation
from .units import Allocation, Limits

Deciders = frozenset[Field]

_MOST_TRIALS = 12  # other counts that are looked at where a configuration takes no such widths


def classes_of(groups: list[Group], geometry: Geometry | None) -> list[list[int]]:
    """Indices of groups that one setting decides, and so keep one share of their width; in order of first appearance.

    Args:
        groups: of a model.
        geometry: what its configuration decides; None where it has none.
    """
    if geometry is None:
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for number, group in enumerate(groups):
            alike[tuple(sorted((pattern_of(m.name), m.dim) for m in group.members))].append(number)
        return list(alike.values())
    classes: list[tuple[list[int], set[Deciders]]] = []
    for number, group in enumerate(groups):
        deciders = _deciders(group, geometry)
        touched = [entry for entry in classes if entry[1] & deciders]
        joined = ([n for entry in touched for n in entry[0]] + [number], deciders.union(*(e[1] for e in touched)))
        classes = [entry for entry in classes if entry not in touched] + [joined]
    return sorted((sorted(numbers) for numbers, _ in classes), key=min)


def _deciders(group: Group, geometry: Geometry) -> set[Deciders]:
    """What decides each dimension that a group stands in; an empty set where nothing does."""
    return {geometry.deciders.get(fact, frozenset()) for fact in _facts(group, geometry)}


def _facts(group: Group, geometry: Geometry) -> set[Fact]:
    facts = (Fact("size", name, "", member.dim) for member in group.members for name in member.stored.names)
    return {fact for fact in facts if fact in geometry.facts}


def unchangeable(groups: list[Group], geometry: Geometry) -> set[str]:
    """Groups that no setting can make narrower: it decides nothing of them, or something that must stay as it is too.

    What must stay are other widths, and constants that one setting alone decides, such as the scale of embeddings.
    """
    covered = {fact for group in groups for fact in _facts(group, geometry)}
    stays: set[Deciders] = {frozenset()}
    for fact, deciders in geometry.deciders.items():
        if fact not in covered and (fact.kind == "size" or (fact.kind == "constant" and len(deciders) == 1)):
            stays.add(deciders)
    return {group.name for group in groups if _deciders(group, geometry) & stays}


class UniformAllocation:
    """An `Allocation` in which the groups of a class lose the same share of their units, each its own worst ones.

    A class is allocated as one group of as many steps as divide all of its groups; the score of a step is the mean,
    over the groups, of that many units by rank.

    Args:
        groups: the groups.
        scores: group name -> (units,), higher stays.
        scope: sorts groups into pools.
        limits: group name -> Limits.
        classes: indices of the groups of each class.
        losses: group name -> (units + 1,), entry k where k units stay: a budget then gives each class the share that
            loses least; none where all lose one share.
    Raises:
        InputError: if groups of one class are to lose different shares.
    """

    def __init__(
        self,
        groups: list[Group],
        scores: Mapping[str, np.ndarray],
        scope: Callable[[list[Group]], list[list[int]]],
        limits: Mapping[str, Limits],
        classes: list[list[int]],
        losses: Mapping[str, np.ndarray] = MappingProxyType({}),
    ):
        self._each = Allocation(groups, scores, [], limits)
        self._classes = classes
        self._units = np.array([len(group) for group in groups], dtype=np.int64)
        self._steps = [math.gcd(*(len(groups[number]) for number in members)) for members in classes]
        stand_ins = [
            replace(groups[members[0]], units=np.arange(steps))
            for members, steps in zip(classes, self._steps, strict=True)
        ]
        joint = {
            group.name: self._joint_limits(members, steps)
            for group, members, steps in zip(stand_ins, classes, self._steps, strict=True)
        }
        joint_scores = {
            group.name: np.mean([_by_rank(self._each.scores[number], steps) for number in members], axis=0)
            for group, members, steps in zip(stand_ins, classes, self._steps, strict=True)
        }
        self._joint = Allocation(stand_ins, joint_scores, scope(stand_ins), joint)
        if losses:
            joint_losses = {
                group.name: found
                for group, members, steps in zip(stand_ins, classes, self._steps, strict=True)
                if (found := self._joint_losses(members, steps, losses)) is not None
            }
            self._joint = SolvedAllocation(stand_ins, joint_scores, joint, joint_losses)

    def _joint_losses(self, members: list[int], steps: int, losses: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """What a class loses at each count of its steps; groups that are not known lose as much as the others."""
        groups = [self._each.groups[number] for number in members]
        known = [losses[group.name][:: len(group) // steps] for group in groups if group.name in losses]
        return np.mean(known, axis=0) * len(members) if known else None

    def _joint_limits(self, members: list[int], steps: int) -> Limits:
        limits = [self._each.limits[number] for number in members]
        fixed = {limit.fixed for limit in limits}
        if len(fixed) > 1:
            first, other = (
                next(n for n in members if self._each.limits[n].fixed == share) for share in list(fixed)[:2]
            )
            names = f"{self._each.groups[first].name} and {self._each.groups[other].name}"
            raise InputError(
                f"{names} have one width in the model's configuration, and are to lose different shares; give them one "
                "share, or say --widths free"
            )
        wide = [int(self._units[number]) // steps for number in members]
        return Limits(
            _multiple(
                wide, [limit.multiple for limit in limits], [self._each.groups[n].multiple for n in members], steps
            ),
            max(-(-limit.least // size) for limit, size in zip(limits, wide, strict=True)),
            fixed.pop(),
            any(limit.whole for limit in limits),
        )

    def _expanded(self, joint: np.ndarray) -> np.ndarray:
        kept = self._units.copy()
        for members, steps, count in zip(self._classes, self._steps, joint, strict=True):
            kept[members] = self._units[members] // steps * count
        return kept

    def at_ratio(self, ratio: float, rounding: Callable[[float], float] = np.ceil) -> np.ndarray:
        """As `Allocation.at_ratio`."""
        return self._expanded(self._joint.at_ratio(ratio, rounding))

    def for_budget(self, cost: Callable[[np.ndarray], float], budget: float) -> np.ndarray:
        """As `Allocation.for_budget`."""
        return self._expanded(self._joint.for_budget(lambda joint: cost(self._expanded(joint)), budget))

    def halfway(
        self, kept: np.ndarray, other: np.ndarray, cost: Callable[[np.ndarray], float], budget: float
    ) -> np.ndarray | None:
        """As `SolvedAllocation.halfway`; None where no losses are known."""
        if not isinstance(self._joint, SolvedAllocation):
            return None
        found = self._joint.halfway(
            self._joined(kept), self._joined(other), lambda joint: cost(self._expanded(joint)), budget
        )
        return self._expanded(found)

    def _joined(self, kept: np.ndarray) -> np.ndarray:
        """Steps of each class, from counts of each group."""
        first = [members[0] for members in self._classes]
        return kept[first] * np.array(self._steps) // self._units[first]

    def restricted(
        self, kept: np.ndarray, takes: Callable[[np.ndarray], bool]
    ) -> Iterator[tuple[str, UniformAllocation]]:
        """As `SolvedAllocation.restricted`, a class by its first group's name; nothing where no losses are known."""
        if isinstance(self._joint, SolvedAllocation):
            for name, joint in self._joint.restricted(self._joined(kept), lambda kept: takes(self._expanded(kept))):
                other = copy(self)
                other._joint = joint
                yield name, other

    def lost(self, kept: np.ndarray) -> float:
        """What these counts lose; 0 where no losses are known."""
        return self._joint.lost(self._joined(kept)) if isinstance(self._joint, SolvedAllocation) else 0.0

    def narrower(self, kept: np.ndarray) -> Iterator[np.ndarray]:
        """Counts in which one class keeps fewer units, the smallest steps first."""
        found: list[tuple[float, int, np.ndarray]] = []
        for number, (members, steps) in enumerate(zip(self._classes, self._steps, strict=True)):
            limit, wide = self._joint.limits[number], self._units[members] // steps
            count = int(kept[members[0]] // wide[0])
            least = -(-limit.least // limit.multiple) * limit.multiple
            for fewer in range(count - limit.multiple, max(least, limit.multiple) - 1, -limit.multiple):
                if not limit.whole:
                    trial = kept.copy()
                    trial[members] = wide * fewer
                    found.append((1 - fewer / count, number, trial))
        yield from (trial for *_, trial in sorted(found, key=lambda entry: entry[:2])[:_MOST_TRIALS])

    def choose(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """As `Allocation.choose`."""
        return self._each.choose(kept)


def _by_rank(scores: np.ndarray, steps: int) -> np.ndarray:
    """Mean scores of equal runs of units, from the worst to the best; (steps,)."""
    return np.sort(scores).reshape(steps, -1).mean(axis=1)


def _multiple(wide: list[int], wanted: list[int], needed: list[int], steps: int) -> int:
    """Steps that keep every group's count a multiple of what is wanted, if that leaves a choice, else of what is
    needed."""
    for multiples in (wanted, needed):
        found = math.lcm(
            *(multiple // math.gcd(multiple, size) for multiple, size in zip(multiples, wide, strict=True))
        )
        if found * 2 <= steps:
            return found
    return found
