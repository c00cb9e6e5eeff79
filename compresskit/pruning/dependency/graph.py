"""From a trace to groups: which channels go together, where each is stored, and which can go at all.

A *unit* is a smallest set of ids that go together. A *group* holds units that are stored in the same places (the
output channels of one convolution, the heads of one attention), so they compete with each other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ...core.types import Inputs
from .channel_ids import PINNED
from .constraints import Solver
from .records import Stored
from .shapes import regular_classes
from .tracer import OUTPUT, Trace, run


@dataclass(frozen=True)
class Member:
    """Where a group's units are stored: positions[unit] along one dimension of one tensor."""

    stored: Stored
    dim: int
    positions: np.ndarray  # (units, places a unit)
    consumes: bool  # whether the dimension is summed over (an input dimension of a layer)

    @property
    def name(self) -> str:
        """The tensor's first name."""
        return self.stored.names[0]


@dataclass(frozen=True)
class Group:
    """Units that are stored in the same places.

    Attributes:
        name: the first layer that makes these channels.
        units: the class of each unit, (units,).
        members: where they are stored.
        multiple: what kernels demand of how many stay.
    """

    name: str
    units: np.ndarray
    members: tuple[Member, ...]
    multiple: int = 1

    def __len__(self) -> int:
        return len(self.units)


@dataclass
class Graph:
    """Groups of a model, and everything needed to cut them.

    Attributes:
        trace: what the run found.
        labels: the class of every id, (ids,).
        groups: what can go.
        left_out: layer name -> why its channels stay.
        solver: numbers that must hold after a cut.
        pinned: class of ids that cannot go -> its first reason.
    """

    trace: Trace
    labels: np.ndarray
    groups: list[Group]
    left_out: dict[str, str] = field(default_factory=dict)
    solver: Solver | None = None
    pinned: dict[int, str] = field(default_factory=dict)

    def keep_ids(self, keep: dict[str, np.ndarray]) -> np.ndarray:
        """Which ids stay, (ids,) bool, from which units of each group stay (a group not named stays whole)."""
        kept = np.ones(len(self.labels), dtype=bool)
        for group in self.groups:
            if group.name in keep:
                kept[group.units[~keep[group.name]]] = False
        return kept[self.labels]

    def find(self, name: str) -> Group | None:
        """The group of a name."""
        return next((group for group in self.groups if group.name == name), None)


def build_graph(module: nn.Module, example: Inputs, attention: str = "heads") -> Graph:
    """Trace a model and find its groups.

    Args:
        module: the model, in eval mode.
        example: inputs that it accepts.
        attention: "heads" (whole heads go) or "dims" (the same dimensions go from every head).
    """
    trace, _ = run(module, example, attention=attention)
    return graph_of(trace)


def graph_of(trace: Trace) -> Graph:
    """Groups of a trace: ties for regular shapes are added, and what cannot go is left out with its reason."""
    labels = regular_classes(trace)
    graph, solver = _classes_graph(trace, labels)
    for _ in range(8):  # every round ties or pins something; a handful always suffices
        if not _mend(trace, labels, graph.groups, solver):
            break
        labels = regular_classes(trace)
        graph, solver = _classes_graph(trace, labels)
    return graph


def _classes_graph(trace: Trace, labels: np.ndarray) -> tuple[Graph, Solver]:
    pinned, solver = _pinned(trace, labels), Solver(trace, labels)
    groups, left_out = _groups(trace, labels, pinned)
    return Graph(trace, labels, groups, left_out, solver, pinned), solver


def _pinned(trace: Trace, labels: np.ndarray) -> dict[int, str]:
    """Classes that cannot go, each with its first reason."""
    pinned = {int(labels[PINNED]): "it meets an input or a constant"}
    for rows, reason in trace.ids.pinned:
        for label in np.unique(labels[rows]).tolist():
            pinned.setdefault(label, reason)
    for rows, reason in trace.ids.frozen:
        found = labels[rows]
        if len(found) and (found == found[0]).all():
            pinned.setdefault(int(found[0]), reason)
    for stored in trace.stored.values():
        for ids in stored.ids:
            found = labels[ids.numpy()]
            if len(found) and (found == found[0]).all():
                pinned.setdefault(int(found[0]), f"all of a dimension of {stored.names[0]} goes together")
    return pinned


def _groups(trace: Trace, labels: np.ndarray, pinned: dict[int, str]) -> tuple[list[Group], dict[str, str]]:
    consumed = trace.marked(trace.consumed)
    multiples = np.ones(int(labels.max()) + 1, dtype=np.int64)
    for ids, multiple in trace.multiples:
        multiples[labels[ids]] = np.lcm(multiples[labels[ids]], multiple)
    axes = [(stored, dim, ids.numpy()) for stored in trace.stored.values() for dim, ids in enumerate(stored.ids)]
    free = np.ones(len(labels), dtype=bool)
    free[list(pinned)] = False
    signature: dict[int, list[int]] = defaultdict(list)
    for number, (_, _, ids) in enumerate(axes):
        for label in labels[ids][free[labels[ids]]].tolist():
            signature[label].append(number)
    together: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for label, places in signature.items():
        together[tuple(places)].append(label)
    groups: list[Group] = []
    taken: set[str] = set()
    for key, units in together.items():
        units_array = np.array(units)
        row = np.full(int(labels.max()) + 1, -1)
        row[units_array] = np.arange(len(units))
        members = []
        for number in dict.fromkeys(key):
            stored, dim, ids = axes[number]
            found = row[labels[ids]]
            order = np.flatnonzero(found >= 0)
            order = order[np.argsort(found[order], kind="stable")]
            members.append(Member(stored, dim, order.reshape(len(units), -1), bool(consumed[ids].any())))
        order = np.argsort(_first_member(members).positions[:, 0], kind="stable")
        members = [Member(m.stored, m.dim, m.positions[order], m.consumes) for m in members]
        name = _unique(_layer_name(_first_member(members)), taken)
        multiple = int(np.lcm.reduce(multiples[units_array]))
        groups.append(Group(name, units_array[order], tuple(members), multiple))
    return groups, _left_out(trace, labels, pinned, free, consumed)


def _left_out(
    trace: Trace, labels: np.ndarray, pinned: dict[int, str], free: np.ndarray, consumed: np.ndarray
) -> dict[str, str]:
    """Layers, and parameters used as weights, none of whose outputs can go, each with the reason; those that make the
    model's output are not among them."""
    left_out = {}
    outputs = trace.output_dims()
    for key, stored in trace.stored.items():
        layer, _, name = stored.names[0].rpartition(".")
        dim = outputs[key]
        if len(stored.ids) < 2 or len(stored.ids[dim]) < 2:
            continue
        if name not in ("weight", "in_proj_weight"):
            if not any(consumed[ids.numpy()].any() for d, ids in enumerate(stored.ids) if d != dim):
                continue  # a table of positions and the like is no layer
            layer = stored.names[0]
        found = np.unique(labels[stored.ids[dim].numpy()])
        reasons = [pinned[label] for label in found.tolist() if label in pinned and pinned[label] != OUTPUT]
        if reasons and not free[found].any():
            left_out[layer] = reasons[0]
    return left_out


def _first_member(members: list[Member]) -> Member:
    """The member that makes the channels: the first output dimension of a weight."""
    makers = [m for m in members if not m.consumes and m.stored.tensor.dim() > 1]
    return (makers or members)[0]


def _layer_name(member: Member) -> str:
    layer, _, tensor = member.name.rpartition(".")
    return layer if layer and tensor == "weight" else member.name


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}#{number}"
    taken.add(unique)
    return unique


def _mend(trace: Trace, labels: np.ndarray, groups: list[Group], solver: Solver) -> bool:
    """Take one unit away from each group in turn; where a number then cannot hold, tie or pin. True if anything
    changed."""
    changed = False
    for group in groups:
        kept = np.ones(len(labels), dtype=bool)
        kept[group.units[0]] = False
        for count in solver.violated(kept[labels], group.units[:1]):
            axes = [axis for axis in solver.size_axes(count) if axis.size > 1]
            axes += solver.partners(count)
            if not _tie(trace, count, axes, labels):
                ids = np.flatnonzero(np.isin(labels, group.units))
                trace.ids.pin(torch.from_numpy(ids), f"a number is hard-coded ({count.site})")
            changed = True
    return changed


def _tie(trace: Trace, count, axes: list, labels: np.ndarray) -> bool:
    """A number takes its value from the size of another dimension: channels at equal positions go together."""
    for axis in axes:
        for mine in count.axis.planes:
            for other in axis.planes:
                if mine.size and mine.size % other.shape[1] == 0 and mine.size >= other.shape[1]:
                    left = torch.from_numpy(np.ascontiguousarray(mine)).reshape(-1, other.shape[1])
                    right = torch.from_numpy(np.ascontiguousarray(other[:1]))
                    if (labels[left.numpy()] == labels[right.numpy()]).all():
                        continue
                    trace.ids.unite(left, right.expand(left.shape), f"{count.site}: one size sets the other")
                    return True
    return False
