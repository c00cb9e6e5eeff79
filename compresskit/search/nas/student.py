"""N2N's students: a model without some of its layers, and with fewer channels in those that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...analysis.calibration.hooks import run_watched
from ...analysis.measure.work import exact_costs, work_of
from ...artifact.edits import replay
from ...core.costs import names
from ...core.errors import InputError, nearest
from ...core.types import Loaded
from ...pruning.allocation.units import highest
from ...pruning.dependency.cost import GraphWork
from ...pruning.dependency.graph import Group, build_graph
from ...pruning.importance.group_scores import evidence_for, score_groups
from ...pruning.options import PruneOptions
from ...pruning.structured.block_pruning import skippable_blocks
from ...pruning.structured.group_equivalence import proven
from ...pruning.structured.surgery import cut
from ...training.context import Context
from ..problem.features import layer_features

#: what the policies see of a layer: kernel side, stride, outputs, inputs, share of the parameters, whole block or layer
FEATURES = ("k", "stride", "n", "c", "parameters", "block")
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Unit:
    """What can go as a whole: a block, or a layer with its BatchNorm; its input then passes through.

    Attributes:
        name: the block or layer.
        edits: that take it out.
    """

    name: str
    edits: tuple[dict[str, Any], ...]


def removable_units(loaded: Loaded) -> list[Unit]:
    """Blocks, and single layers of plain sequences, whose outputs have the shape of their inputs."""
    blocks = skippable_blocks(loaded.module, loaded.example)
    units = [Unit(name, (edit,)) for name, edit in blocks.items()]
    for name, followers in _plain_layers(loaded).items():
        if not any(name == block or name.startswith(f"{block}.") for block in blocks):
            units.append(Unit(name, tuple({"op": "remove", "target": target} for target in (name, *followers))))
    order = {name: number for number, (name, _) in enumerate(loaded.module.named_modules())}
    return sorted(units, key=lambda unit: order[unit.name])


@torch.no_grad()
def _plain_layers(loaded: Loaded) -> dict[str, list[str]]:
    """Layers standing directly in a Sequential that keep their input's shape -> the BatchNorm right after each."""
    followers: dict[str, list[str]] = {}
    for path, parent in loaded.module.named_modules():
        if not isinstance(parent, nn.Sequential):
            continue
        children = [(f"{path}.{name}" if path else name, child) for name, child in parent.named_children()]
        for (name, layer), following in zip(children, [*children[1:], ("", None)], strict=True):
            if isinstance(layer, _LAYERS):
                norm = [following[0]] if isinstance(following[1], _NORMS) else []
                followers[name] = norm
    found: dict[str, list[str]] = {}

    def look(name: str, given: tuple, named: dict[str, Any], output: Any) -> None:
        if (*given, *named.values())[0].shape == output.shape:
            found[name] = followers[name]

    run_watched(loaded.module.eval(), loaded.example, look, followers)
    return found


def without(loaded: Loaded, units: Sequence[Unit]) -> Loaded:
    """A copy without some units."""
    student = loaded.clone()
    edits = [dict(edit) for unit in units for edit in unit.edits]
    replay(student.module, edits)
    student.edits = [*student.edits, *edits]
    return student


#: what networks are bounded by and compared in
_COSTS = names("exact", technique="architecture")


def measured_costs(loaded: Loaded) -> dict[str, float]:
    """MACs and parameters of a model."""
    return exact_costs(work_of(loaded), _COSTS)


class Shrinker:
    """Narrows a model: channels that move together go together, those of the smallest weights first.

    Args:
        loaded: the model (stays untouched).
        context: seed and data.
    Raises:
        InputError: if no channel can go.
    """

    def __init__(self, loaded: Loaded, context: Context):
        self._loaded = loaded
        self._graph = build_graph(loaded.module, loaded.example)
        options = PruneOptions(ratio=0.5, criterion="l1")
        evidence = evidence_for(loaded, self._graph, options, context)
        self._scores = score_groups(self._graph, evidence, options)
        able = {group.name: self._mask(group, 1) for group in self._graph.groups if len(group) > 1}
        proof = proven(loaded, self._graph, able, context)
        self.groups = [group for group in self._graph.groups if group.name in proof.keep]
        if not self.groups:
            raise InputError(f"model {loaded.name!r}: no channels can go, so there is nothing to shrink")
        self._work = GraphWork(self._graph)

    def _mask(self, group: Group, count: int) -> np.ndarray:
        return highest(self._scores[group.name], count)

    def counts(self, ratios: Sequence[float]) -> list[int]:
        """Units of each group that stay at a keep ratio, one at least."""
        return [max(1, round(ratio * len(group))) for ratio, group in zip(ratios, self.groups, strict=True)]

    def costs(self, counts: Sequence[int]) -> dict[str, float]:
        """MACs and parameters with this many units in each group."""
        kept = {group.name: count for group, count in zip(self.groups, counts, strict=True)}
        given = np.array([kept.get(group.name, len(group)) for group in self._graph.groups])
        return exact_costs(self._work.at(given), _COSTS)

    def build(self, counts: Sequence[int]) -> Loaded:
        """A copy with this many units in each group."""
        student = self._loaded.clone()
        keep = {
            group.name: self._mask(group, count)
            for group, count in zip(self.groups, counts, strict=True)
            if count < len(group)
        }
        student.edits = [*student.edits, *cut(student.module, self._graph, self._graph.keep_ids(keep))]
        return student

    def features(self) -> torch.Tensor:
        """What the shrinking policy sees of the groups, (groups, features)."""
        return described(self._loaded, [group.name for group in self.groups], whole_blocks=())


def described(loaded: Loaded, names: Sequence[str], whole_blocks: Sequence[str]) -> torch.Tensor:
    """Features of layers or blocks, each scaled by the largest; (names, features)."""
    modules = dict(loaded.module.named_modules())
    first = {name: _first_layer(name, modules) for name in names}
    seen = layer_features(loaded, [layer for layer in first.values() if layer])
    rows = []
    for name in names:
        own = seen.get(first[name] or "", {})
        count = sum(p.numel() for p in modules[name].parameters()) if name in modules else 0
        known = {**own, "parameters": float(count), "block": float(name in whole_blocks)}
        rows.append([known.get(feature, 0.0) for feature in FEATURES])
    table = torch.tensor(rows, dtype=torch.float32)
    return table / table.amax(0).clamp_min(1e-9)


def _first_layer(name: str, modules: dict[str, nn.Module]) -> str | None:
    inside = (other for other in modules if other == name or other.startswith(f"{name}."))
    return next((other for other in inside if isinstance(modules[other], _LAYERS)), None)


def build_student(loaded: Loaded, network: Any, context: Context) -> Loaded:
    """The student of a description {removed: [unit], kept: {group: units}}.

    Raises:
        InputError: if the description names what the model has not.
    """
    if not isinstance(network, dict) or set(network) != {"removed", "kept"}:
        raise InputError(f"network must be {{removed: [names], kept: {{group: count}}}}, got {network!r}")
    units = {unit.name: unit for unit in removable_units(loaded)}
    for name in network["removed"]:
        if name not in units:
            raise InputError(f"network: {name!r} is nothing that can be removed{nearest(str(name), units)}")
    reduced = without(loaded, [units[name] for name in network["removed"]])
    if not network["kept"]:
        return reduced
    shrinker = Shrinker(reduced, context)
    widths = {group.name: len(group) for group in shrinker.groups}
    for name, count in network["kept"].items():
        if name not in widths:
            raise InputError(f"network: no group {name!r}{nearest(str(name), widths)}")
        if not isinstance(count, int) or not 1 <= count <= widths[name]:
            raise InputError(f"network: group {name!r} keeps 1 to {widths[name]} units, got {count!r}")
    return shrinker.build([network["kept"].get(name, width) for name, width in widths.items()])
