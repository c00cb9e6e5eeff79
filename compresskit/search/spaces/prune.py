"""Pruning as a search: each place is a channel group, its levels are how many units stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.measure.work import exact_costs
from ...analysis.sensitivity.channels import drawn_class, output_sensitivities, unlabelled
from ...core.errors import InputError
from ...core.tensors.modules import tensor_of
from ...core.types import Loaded, to_device
from ...model.example_inputs import with_batch
from ...pruning.allocation.latency_model import LatencyTable
from ...pruning.allocation.measured_budget import Proportional
from ...pruning.allocation.solved_widths import losses_of_widths
from ...pruning.allocation.units import by_score, highest
from ...pruning.dependency.cost import GraphWork, touched_bytes
from ...pruning.dependency.graph import Group, build_graph
from ...pruning.importance.group_scores import evidence_for, score_groups
from ...pruning.options import PruneOptions
from ...pruning.recovery.recovery import refit_before_cut
from ...pruning.structured.group_equivalence import proven
from ...pruning.structured.surgery import cut
from ...training.batchnorm import estimate_batchnorm
from ...training.context import Context
from ..options import SearchOptions
from ..problem.evaluator import first_examples
from ..problem.features import layer_features
from ..problem.measured_budget import decided
from ..problem.subject import Choice, Place


class PruneSubject:
    """Channel groups of a model.

    Units are ranked once, by the options' criterion, and the layers that read them are refitted from second moments
    that are taken once, so building a candidate runs no data but that for BatchNorm statistics.

    Args:
        loaded: the model (stays untouched).
        options: space, criterion and calibration.
        context: data and seed.
    """

    def __init__(self, loaded: Loaded, options: SearchOptions, context: Context):
        self._loaded = loaded
        self._options = options
        self._context = context
        self.graph = build_graph(loaded.module, loaded.example)
        self._prune_options = PruneOptions(ratio=0.5, **self._shared_options())
        self._evidence = evidence_for(loaded, self.graph, self._prune_options, context)
        self._scores = score_groups(self.graph, self._evidence, self._prune_options)
        self._recalibration = first_examples(self._evidence.inputs, options.recalibration_samples)
        counts = [_counts(len(group), options, len(self.graph.groups)) for group in self.graph.groups]
        self.notes = [f"left out {name}: {reason}" for name, reason in self.graph.left_out.items()]
        searched = self._searched(counts)
        if not searched:
            raise InputError(f"model {loaded.name!r}: no channels can go, so there is nothing to search")
        self._groups = searched
        self._counts = [counts[number] for number in searched]
        self._work = GraphWork(self.graph, touched_bytes)
        self._whole = np.array([len(group) for group in self.graph.groups])
        self.latency = self._latency_table(name) if (name := options.timed_target()) else None
        self._predicted = self._prediction()
        self.places = self._make_places()

    def _shared_options(self) -> dict[str, Any]:
        options = self._options
        return {
            "criterion": options.criterion, "samples": options.samples, "reconstruct": "inputs", "round_to": 1,
            "min_keep_ratio": 0.0, "min_channels": 1, "widths": "free",
        }  # fmt: skip

    def _searched(self, counts: list[list[int]]) -> list[int]:
        """Groups with a choice, whose smallest cut passes the proof."""
        smallest = {
            group.name: self._mask(group, own[0])
            for group, own in zip(self.graph.groups, counts, strict=True) if len(own) > 1
        }  # fmt: skip
        proof = proven(self._loaded, self.graph, smallest, self._context)
        self.notes += proof.notes
        return [number for number, group in enumerate(self.graph.groups) if group.name in proof.keep]

    def _mask(self, group: Group, count: int) -> np.ndarray:
        return highest(self._scores[group.name], count)

    def _make_places(self) -> list[Place]:
        features = self._features()
        macs = self._work.multiplications
        whole_macs = macs(self._whole)
        places = []
        for number, counts in zip(self._groups, self._counts, strict=True):
            group = self.graph.groups[number]
            without = self._whole.copy()
            without[number] = 0
            seen = {**features[number], "cost_share": (whole_macs - macs(without)) / max(whole_macs, 1)}
            shares = tuple(count / len(group) for count in counts)
            labels = tuple(f"{count} of {len(group)}" for count in counts)
            readers = {member.name for member in group.members if self._evidence.reads(member)}
            places.append(Place(group.name, shares, labels, seen, readers=len(readers)))
        return places

    def _features(self) -> dict[int, dict[str, float]]:
        """What an agent sees of each searched group: the first layer that reads it, else the layer that makes it."""
        readers = {}
        for number in self._groups:
            group = self.graph.groups[number]
            layers = [member.name.rpartition(".")[0] for member in group.members if member.consumes]
            readers[number] = layers[0] if layers else group.name
        found = layer_features(self._loaded, list(readers.values()))
        return {number: found.get(name, {}) for number, name in readers.items()}

    def kept(self, choice: Choice) -> np.ndarray:
        """How many units of every group of the graph stay, (groups,)."""
        kept = self._whole.copy()
        for number, counts, level in zip(self._groups, self._counts, choice, strict=True):
            kept[number] = counts[level]
        return kept

    def _prediction(self) -> dict[str, Callable[[np.ndarray], float]]:
        """The cost with a budget that only measuring tells, as it is predicted."""
        name = self._options.measured_target()
        if name is None:
            return {}
        return {name: self.latency or Proportional(name, self._loaded, self.graph).predicted}

    def _latency_table(self, name: str) -> LatencyTable:
        """Measured times of layers, and one measured cut that tells how far the time between layers shrinks."""
        example = to_device(with_batch(self._loaded.example, self._context.latency_batch), self._context.device)
        table = LatencyTable(self._loaded, self.graph, example, self._context.decisions)
        smallest = (0,) * len(self._groups)
        share = decided(name, "prune", self._loaded, self.cut_copy(smallest), self._context).share
        table.anchor(self.kept(smallest), share * table.whole_ms)
        return table

    def costs(self, choice: Choice) -> dict[str, float]:
        """The exact costs of a choice and, where the budget bounds one that is not, its prediction."""
        return self._costs_of(self.kept(choice))

    def whole_costs(self) -> dict[str, float]:
        """The same of the model as it is."""
        return self._costs_of(self._whole)

    def _costs_of(self, kept: np.ndarray) -> dict[str, float]:
        found = exact_costs(self._work.at(kept), self._options.costs())
        return found | {name: predict(kept) for name, predict in self._predicted.items()}

    def build(self, choice: Choice) -> nn.Module:
        """A cut copy: weights refitted, BatchNorm statistics estimated again."""
        module = self.cut_copy(choice)
        if self._recalibration:
            estimate_batchnorm(module, self._recalibration)
        return module

    @torch.no_grad()
    def cut_copy(self, choice: Choice) -> nn.Module:
        """A cut copy with refitted weights, and BatchNorm statistics as they were."""
        module = self._loaded.clone().module
        ids = self.keep_ids(choice)
        refit_before_cut(module, self.graph, ids, self._evidence, self._prune_options.ridge)
        cut(module, self.graph, ids)
        return module

    def keep_ids(self, choice: Choice) -> np.ndarray:
        """Which of the graph's ids stay, (ids,) bool."""
        return self.graph.keep_ids(self._keep(choice))

    def inputs_that_stay(self, layer: str, choice: Choice) -> np.ndarray | None:
        """Which inputs of a layer stay, (inputs,) bool; None where the run never saw its weight."""
        for stored in self.graph.trace.stored.values():
            if f"{layer}.weight" in stored.names and len(stored.ids) > 1:
                return self.keep_ids(choice)[stored.ids[1].numpy()]
        return None

    def _keep(self, choice: Choice) -> dict[str, np.ndarray]:
        return {
            self.graph.groups[number].name: self._mask(self.graph.groups[number], counts[level])
            for number, counts, level in zip(self._groups, self._counts, choice, strict=True)
            if counts[level] < len(self.graph.groups[number])
        }

    @cached_property
    def _sensitivities(self) -> dict[str, Tensor]:
        batches = first_examples(self._evidence.inputs, self._options.probe_samples)
        return output_sensitivities(
            self._loaded.module,
            list(self._evidence.moments),
            unlabelled(batches),
            score=drawn_class(self._context.seed),
        )

    def errors(self, place: int) -> list[float]:
        """Predicted divergence of each level: output errors of the refitted layers that read the group, weighted."""
        group = self.graph.groups[self._groups[place]]
        counts = self._counts[place]
        order = by_score(self._scores[group.name])
        losses = np.zeros(len(group) + 1)
        for member in group.members:
            if not self._evidence.reads(member):
                continue
            name, layer = self._evidence.layer(member)
            sums = self._evidence.moments[name]
            sensitivity = self._sensitivities.get(name, torch.zeros(len(tensor_of(layer))))
            losses += losses_of_widths(
                layer, sums.covariance()[0], sums.count, sensitivity.to(sums.first.device), member.positions[order]
            )
        if not losses.any():  # nothing that can be measured reads the group
            return [1 - count / len(group) for count in counts]
        return losses[counts].tolist()

    def steps(self, choice: Choice) -> list[dict[str, Any]]:
        """A `prune` step with this share for each group."""
        ratios = {
            self.graph.groups[number].name: 1 - counts[level] / len(self.graph.groups[number])
            for number, counts, level in zip(self._groups, self._counts, choice, strict=True)
            if counts[level] < len(self.graph.groups[number])
        }
        shared = {**self._shared_options(), "reconstruct": self._options.refit}
        if "samples" not in self._options.model_fields_set:
            del shared["samples"]  # the winner alone takes as many as prune does by itself
        return [{"prune": {"ratios": ratios, **shared}}] if ratios else []


def _counts(units: int, options: SearchOptions, places: int) -> list[int]:
    """Unit counts of a group's levels: multiples of round_to from the least up, at most `levels`, and the whole."""
    multiple = options.round_to if options.round_to <= units // 2 else 1
    least = max(1, int(np.ceil(options.min_keep_ratio * units)))
    steps = [count for count in range(multiple, units, multiple) if count >= least]
    levels = options.levels_for(places)
    if len(steps) > levels - 1:
        picks = np.linspace(0, len(steps) - 1, levels - 1).round().astype(int)
        steps = [steps[pick] for pick in dict.fromkeys(picks.tolist())]
    return [*steps, units]
