"""Cuts of transformers models that their configurations can express, and configurations that follow a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from ...artifact.config_edits import config_edit, lists_with_gaps, renumber_edits
from ...artifact.edits import replay
from ...core.errors import InputError, first_line
from ...core.tensors.modules import get_module
from ...core.types import Loaded
from ...model.libraries.derived_config import settings_for, without_layers
from ...model.libraries.geometry import Fact, Facts, Geometry, facts_of
from ..allocation.allocation import Budget, counts
from ..allocation.uniform_widths import UniformAllocation, classes_of, unchangeable
from ..allocation.units import Allocation
from ..dependency.graph import Graph
from ..dependency.symbolic_int import leaves
from ..options import PruneOptions
from .group_equivalence import Keep, Proof


class Ties(NamedTuple):
    """Which groups keep one share of their width.

    Attributes:
        classes: indices of groups, every group in one class; None where each group has a width of its own.
        geometry: what the model's configuration decides; None for models without one.
        notes: lines for the report.
    """

    classes: list[list[int]] | None
    geometry: Geometry | None
    notes: list[str]


#: each group has a width of its own
FREE = Ties(None, None, [])


def is_uniform(loaded: Loaded, options: PruneOptions) -> bool:
    """Whether layers of one kind keep one width."""
    return options.widths == "uniform" or (options.widths == "auto" and loaded.source.get("kind") == "hf")


def geometry_of(loaded: Loaded) -> tuple[Geometry | None, list[str]]:
    """What a transformers model's configuration decides, and a note where that cannot be found out."""
    if loaded.source.get("kind") != "hf":
        return None, []
    try:
        return Geometry(loaded.module), []
    except InputError as error:
        return None, [f"from_pretrained will not load the result: {first_line(error)}"]


def ties_of(loaded: Loaded, graph: Graph, options: PruneOptions) -> Ties:
    """The ties that the options ask for."""
    geometry, notes = geometry_of(loaded)
    classes = classes_of(graph.groups, geometry) if is_uniform(loaded, options) else None
    return Ties(classes, geometry, notes)


def whole_groups(graph: Graph, ties: Ties) -> set[str]:
    """Groups that no setting of the configuration can make narrower."""
    if ties.classes is None or ties.geometry is None:
        return set()
    names = unchangeable(graph.groups, ties.geometry)
    if names and not ties.notes:
        ties.notes.append(
            f"{len(names)} of {len(graph.groups)} groups stay whole, such as {min(names)}: the configuration has no "
            "width for them alone; --widths free cuts them, and from_pretrained will not load that"
        )
    return names


def settled(
    graph: Graph,
    ties: Ties,
    allocation: Allocation | UniformAllocation,
    keep: Keep,
    again: Callable[[UniformAllocation], np.ndarray | None] = lambda restricted: None,
) -> Keep:
    """A choice whose widths a configuration takes: where it takes no such numbers together, one kind gets narrower.

    Configurations check more than shapes, e.g. that the width is a multiple of the number of heads.

    Args:
        graph: the groups.
        ties: with what the configuration decides.
        allocation: that made the choice.
        keep: the choice.
        again: makes it again where losses are known, and one kind has the widths alone that fit the others' of `keep`.
    """
    if ties.geometry is None or not isinstance(allocation, UniformAllocation):
        return keep
    kept = counts(graph, keep)
    if _takes(ties.geometry, graph, kept):
        return keep
    takes = partial(_takes, ties.geometry, graph)
    fitting: list[tuple[float, int, np.ndarray]] = []
    for number, (_, restricted) in enumerate(allocation.restricted(kept, takes)):
        found = again(restricted)
        if found is not None and takes(found):
            fitting.append((restricted.lost(found), number, found))
    if fitting:
        return allocation.choose(min(fitting, key=lambda one: one[:2])[2])
    other = next(filter(takes, allocation.narrower(kept)), None)
    return keep if other is None else allocation.choose(other)


def with_more(
    graph: Graph, ties: Ties, allocation: UniformAllocation, kept: np.ndarray, budget: Budget
) -> Iterator[tuple[str, np.ndarray]]:
    """Other choices under a budget, in which one kind is wider than by losses alone, which are estimates.

    Args:
        graph: the groups.
        ties: with what the configuration decides.
        allocation: with losses.
        kept: counts of the choice by them.
        budget: as `exact_budget` finds it.
    Yields:
        the kind's first group, and counts.
    """
    cost, most = budget

    def fits(trial: np.ndarray) -> bool:
        return ties.geometry is None or _takes(ties.geometry, graph, trial)

    for name, restricted in allocation.restricted(kept, lambda trial: trial.sum() > kept.sum() and fits(trial)):
        found = restricted.for_budget(cost, most)
        if cost(found) <= most and fits(found) and (found > kept).any():
            yield name, found


def _takes(geometry: Geometry, graph: Graph, kept: np.ndarray) -> bool:
    """Whether some settings build the tensors that a model has when some units of each group stay."""
    sizes = {fact: size for fact, size in geometry.facts.items() if fact.kind in ("size", "length")}
    for group, count in zip(graph.groups, kept, strict=True):
        for member in group.members:
            for name in member.stored.names:
                fact = Fact("size", name, "", member.dim)
                if fact in sizes:
                    sizes[fact] -= int(len(group) - count) * member.positions.shape[1]
    try:
        settings_for(geometry, sizes)
    except InputError:
        return False
    return True


def proven_together(graph: Graph, keep: Keep, ties: Ties, prove: Callable[[Keep], Proof]) -> Proof:
    """A proof in which groups of one class are left out together."""
    failed: dict[str, str] = {}
    while True:
        proof = prove(keep)
        failed |= proof.failed
        if ties.classes is None or not proof.failed:
            return replace(proof, failed=failed)
        names = [[graph.groups[number].name for number in members] for members in ties.classes]
        gone = {name for members in names if proof.failed.keys() & set(members) for name in members}
        keep = {name: mask for name, mask in keep.items() if name not in gone}


def follow(loaded: Loaded, geometry: Geometry | None, graph: Graph) -> list[str]:
    """Give a cut model's configuration, and the numbers that only describe its layers, the shapes that it has now.

    Args:
        loaded: the cut model; edits are added.
        geometry: of the model before the cut.
        graph: of the model before the cut: which attributes its forward reads.
    Returns:
        a note where no configuration describes the shapes.
    """
    if geometry is None:
        return []
    found = facts_of(loaded.module)
    read = _read_attributes(graph)
    wanted = {
        fact: value for fact, value in found.items() if fact.kind not in ("attribute", "constant") or fact[1:3] in read
    }
    try:
        settings: dict[str, Any] = settings_for(geometry, wanted)
        facts = geometry.build(settings)
    except InputError as error:
        return [f"from_pretrained will not load the result: {first_line(error)}; --widths uniform keeps one width"]
    record_settings(loaded, facts, settings)
    return []


def _record(loaded: Loaded, edits: list[dict[str, Any]]) -> None:
    for edit in edits:
        replay(loaded.module, [edit])
        loaded.edits.append(edit)


def _stale_attributes(module: nn.Module, facts: Facts) -> list[dict[str, Any]]:
    """Edits that give attributes the values which a built model has."""
    found = facts_of(module)
    stale = {fact[1:3] for fact, value in found.items() if fact.kind == "attribute" and facts.get(fact, value) != value}
    return [
        {"op": "resize", "target": path, "shapes": {}, "attributes": {name: _attribute(module, facts, path, name)}}
        for path, name in sorted(stale)
    ]


def _read_attributes(graph: Graph) -> set[tuple[str, str]]:
    """Attributes (module, name) from which a forward computes shapes."""
    if graph.solver is None:
        return set()
    return {(key.path, key.name) for count in graph.solver.counts for key in leaves(count.expr, "attr")}


def _attribute(module: nn.Module, facts: Facts, path: str, name: str) -> int | list[int]:
    """The value of an attribute in facts, a list where the module has one."""
    entries = {fact.place: value for fact, value in facts.items() if fact[:3] == ("attribute", path, name)}
    is_list = isinstance(getattr(get_module(module, path), name), list | tuple)
    return [entries[place] for place in sorted(entries)] if is_list else entries[0]


def settings_without(module: nn.Module, geometry: Geometry, block: str) -> dict[str, Any]:
    """Settings that build a model without a block, and without the blocks that are left out already.

    Raises:
        InputError: if none do.
    """
    path, _, index = block.rpartition(".")
    kept = lists_with_gaps(module)
    kept.setdefault(path, list(range(len(get_module(module, path)))))  # type: ignore[arg-type]
    kept[path] = [place for place in kept[path] if str(place) != index]
    facts = {
        fact: value
        for fact, value in without_layers(facts_of(module), kept).items()
        if fact.kind != "attribute" or any(fact.path.startswith(f"{path}.") for path in kept)
    }
    return settings_for(geometry, facts, kept)


def renumber(loaded: Loaded, geometry: Geometry | None, settings: Mapping[str, Any] | None) -> None:
    """Take the blocks that are left out of their lists, as edits, and give the configuration its settings."""
    if settings is None or geometry is None:
        return
    _record(loaded, renumber_edits(list(lists_with_gaps(loaded.module))))
    record_settings(loaded, geometry.build(settings), settings)


def record_settings(loaded: Loaded, facts: Facts, settings: Mapping[str, Any]) -> None:
    """Give a cut model's configuration its settings, and the attributes that follow from them the values in facts."""
    _record(loaded, [*_stale_attributes(loaded.module, facts), *config_edit(loaded.module, settings)])
