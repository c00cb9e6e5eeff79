"""Decomposition as a search: each place is a layer, its levels are ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.calibration.moments import Moments
from ...analysis.measure.work import exact_costs, work_of
from ...analysis.sensitivity.channels import drawn_class, output_sensitivities, unlabelled
from ...core.errors import InputError
from ...core.tensors.modules import get_module, tensor_of
from ...core.types import Inputs, Loaded
from ...decomposition.fit.fit import Evidence, Fit, fit_activation, fit_weight
from ...decomposition.methods.kinds import Ranks, chain_of, compose, split_groups
from ...decomposition.options import DecomposeOptions
from ...decomposition.ranks.candidates import Candidate, Layer, candidates_of, kinds_for
from ...decomposition.ranks.timing import TimeTable, is_faster, move_into_model
from ...decomposition.surgery.find_layers import Site, survey
from ...decomposition.surgery.layers import chain_with_bias
from ...decomposition.surgery.surgery import evidence_for, put_factors
from ...decomposition.tables import KINDS
from ...training.batchnorm import estimate_batchnorm
from ...training.context import Context
from ..options import SearchOptions
from ..problem.evaluator import first_examples
from ..problem.features import layer_features
from ..problem.subject import Choice, Place

_BATCH = 64


@dataclass
class _Level:
    """One layer at one rank: its factors, what it is expected to do to the output, and what it saves."""

    candidate: Candidate
    fit: Fit
    divergence: float
    saved: dict[str, float]
    fitted_to_data: bool


class DecomposeSubject:
    """Layers of a model, each fitted once at every rank; a candidate puts fitted factors together.

    Args:
        loaded: the model (stays untouched).
        options: kind, space and calibration.
        context: data and seed.
        moments: takes up the moments of each layer's inputs, where given.
    Raises:
        InputError: if no layer can be decomposed.
    """

    def __init__(
        self, loaded: Loaded, options: SearchOptions, context: Context, moments: dict[str, Moments] | None = None
    ):
        self._loaded = loaded
        self._options = options
        sites, left_out = survey(loaded)
        self.notes = [f"left out {name}: {reason}" for name, reason in left_out.items()]
        sites = [site for site in sites if site.geometry.form != "embedding"]
        batches: list[Inputs] = context.calibration_batches(options.samples, batch_size=_BATCH)
        self._recalibration = first_examples(batches, options.recalibration_samples)
        sensitivities = output_sensitivities(
            loaded.module, [site.name for site in sites], unlabelled(first_examples(batches, options.probe_samples)),
            score=drawn_class(context.seed), errors="independent",
        )  # fmt: skip
        plan = DecomposeOptions.model_validate(decompose_values(options, {"*": 1}))
        self._shares = np.linspace(options.min_keep_ratio, 1, options.levels_for(len(sites)))[:-1].tolist()
        levels: dict[str, list[_Level]] = {}
        for site, evidence in evidence_for(loaded.module, sites, plan, batches, context.seed, context.device):
            levels[site.name] = self._fitted(site, evidence, sensitivities.get(site.name))
            if moments is not None and evidence.moments is not None:
                moments[site.name] = evidence.moments
            context.log(f"fitted {site.name} at {len(levels[site.name])} ranks")
        timed = self._times(name, sites, levels, context) if (name := options.timed_target()) else {}
        self.sites = [site for site in sites if levels[site.name]]
        self._levels = [levels[site.name] for site in self.sites]
        if not self.sites:
            raise InputError(f"model {loaded.name!r}: no layer has a rank at which it costs less")
        work = work_of(loaded)
        self._whole_macs = sum(work.macs.values())
        self._whole = exact_costs(work, options.costs()) | timed
        self.places = self._make_places()

    def _fitted(self, site: Site, evidence: Evidence, sensitivity: Tensor | None) -> list[_Level]:
        """The layer at each of its ranks, cheapest first."""
        found: dict[Ranks, _Level] = {}
        to_data = evidence.moments is not None
        bias = site.geometry.bias or (to_data and site.norm is None)
        size = tensor_of(get_module(self._loaded.module, site.name)).element_size()
        for share in self._shares:
            one = at_share(site, evidence, self._options, share)
            if one is None or one.ranks in found:
                continue
            chain = chain_with_bias(one.kind, site.geometry, one.ranks, bias)
            if not site.saves(chain):
                continue  # a bias that is new would make the layer larger
            fit = (fit_activation if to_data else fit_weight)(KINDS.load(one.kind), site.geometry, one.ranks, evidence)
            before, after = (
                exact_costs(site.work_of(links, size), self._options.costs()) for links in ([site.geometry], chain)
            )
            saved = {name: figure - after[name] for name, figure in before.items()}
            divergence = expected_divergence(site, one, fit, evidence, sensitivity)
            found[one.ranks] = _Level(one, fit, divergence, saved, to_data)
        return sorted(found.values(), key=lambda level: level.candidate.macs)

    def _times(
        self, name: str, sites: list[Site], levels: dict[str, list[_Level]], context: Context
    ) -> dict[str, float]:
        """The model's milliseconds; each level gets what it saves of them, and levels that save none go."""
        table, layers = TimeTable(self._loaded.module, context.latency_batch, context.decisions), []
        for site in sites:
            layer = Layer(site)
            layer.candidates = table.time(layer, [level.candidate for level in levels[site.name]])
            layers.append(layer)
        whole_ms = move_into_model(self._loaded, layers, context.latency_batch, context.decisions)
        for layer in layers:
            kept = []
            slowest = 0.0  # a rank up never takes less time, whatever the clock says
            for level, one in zip(levels[layer.site.name], layer.candidates, strict=True):
                if one.latency_ms is None or layer.latency_ms is None:
                    continue  # what was not timed is not offered
                slowest = max(slowest, one.latency_ms)
                one = replace(one, latency_ms=slowest)
                if is_faster(layer, one) and slowest < layer.latency_ms:
                    saved = {**level.saved, name: layer.latency_ms - slowest}
                    kept.append(replace(level, candidate=one, saved=saved))
            levels[layer.site.name] = kept
            if not kept:
                self.notes.append(f"left out {layer.site.name}: no rank is measured to be faster than the layer")
        return {name: whole_ms}

    def latency_shares(self, layer: str) -> list[float]:
        """What each level of a layer takes of its time, where the budget bounds latency."""
        levels = dict(zip((site.name for site in self.sites), self._levels, strict=True))[layer]
        name = self._options.needs_timed_target()
        return [ms / (ms + level.saved[name]) for level in levels if (ms := level.candidate.latency_ms)]

    def _make_places(self) -> list[Place]:
        features = layer_features(self._loaded, [site.name for site in self.sites])
        places = []
        for site, levels in zip(self.sites, self._levels, strict=True):
            shares = (*(level.candidate.macs / site.macs for level in levels), 1.0)
            labels = (*(f"rank {' x '.join(map(str, level.candidate.ranks))}" for level in levels), "whole")
            seen = {**features.get(site.name, {}), "cost_share": site.macs / max(self._whole_macs, 1)}
            places.append(Place(site.name, shares, labels, seen))
        return places

    def _chosen(self, choice: Choice) -> list[tuple[Site, _Level]]:
        """The layers that a choice replaces."""
        rows = zip(self.sites, self._levels, choice, strict=True)
        return [(site, levels[level]) for site, levels, level in rows if level < len(levels)]

    def costs(self, choice: Choice) -> dict[str, float]:
        """The exact costs of a choice and, where the budget bounds it, its predicted latency."""
        chosen = self._chosen(choice)
        return {name: whole - sum(level.saved[name] for _, level in chosen) for name, whole in self._whole.items()}

    def whole_costs(self) -> dict[str, float]:
        """The same of the model as it is."""
        return dict(self._whole)

    @torch.no_grad()
    def build(self, choice: Choice) -> nn.Module:
        """A copy with the factors in it, BatchNorm statistics estimated again."""
        module = self._loaded.clone().module
        for site, level in self._chosen(choice):
            put_factors(module, site, level.candidate, level.fit, fitted_to_data=level.fitted_to_data)
        if self._recalibration:
            estimate_batchnorm(module, self._recalibration)
        return module

    def errors(self, place: int) -> list[float]:
        """Predicted divergence of each level: the output errors of the layer, weighted."""
        return [*(level.divergence for level in self._levels[place]), 0.0]

    def steps(self, choice: Choice) -> list[dict[str, Any]]:
        """A `decompose` step with these ranks."""
        ranks = {site.name: level.candidate.ranks[0] for site, level in self._chosen(choice)}
        return [decompose_step(self._options, ranks)] if ranks else []


def decompose_step(options: SearchOptions, ranks: dict[str, int]) -> dict[str, Any]:
    """The recipe step that gives the winner's layers these ranks."""
    own: dict[str, Any] = {} if options.refit == "inputs" else {"inputs": "compressed"}
    if options.refit != "auto":
        own["reconstruct"] = "none"
    return {"decompose": decompose_values(options, ranks) | own}


def decompose_values(options: SearchOptions, ranks: dict[str, int]) -> dict[str, Any]:
    """The options of a `decompose` step at given ranks."""
    return {
        "kind": options.kind, "ranks": ranks, "objective": "activation", "norms": "reestimate",
        "calibration_samples": options.samples,
    }  # fmt: skip


def at_share(site: Site, evidence: Evidence, options: SearchOptions, share: float) -> Candidate | None:
    """What the `decompose` step makes of a layer at the largest rank that keeps no more than a share of its MACs."""
    rank = rank_at(site, options, share)
    if rank is None:
        return None
    plan = DecomposeOptions.model_validate(decompose_values(options, {"*": rank}))
    found = candidates_of(site, evidence, plan)
    return min(found, key=lambda one: (one.error, one.macs, one.params), default=None)


def rank_at(site: Site, options: SearchOptions, share: float) -> int | None:
    """The largest rank at which a layer's chain costs at most a share of its MACs; None if not even one does."""
    kinds = kinds_for(site, DecomposeOptions.model_validate(decompose_values(options, {"*": 1})))
    if not kinds:
        return None
    kind = KINDS.load(kinds[-1])
    limits = kind.limits(site.geometry.one_group())
    low, high = 0, max(limits)
    while low < high:
        middle = (low + high + 1) // 2
        chain = chain_of(kind, site.geometry, tuple(min(middle, limit) for limit in limits))
        if site.macs_of(chain) <= share * site.macs:
            low = middle
        else:
            high = middle - 1
    return low or None


def expected_divergence(
    site: Site, one: Candidate, fit: Fit, evidence: Evidence, sensitivity: Tensor | None
) -> float:  # fmt: skip
    """Half the squared errors of a layer's output channels, each weighted by how much the prediction depends on it."""
    chain = chain_of(KINDS.load(one.kind), site.geometry, one.ranks)
    lost = evidence.target - compose(site.geometry, chain, fit.factors)
    errors = []
    for group, part in enumerate(split_groups(site.geometry, lost)):
        flat = part.flatten(1)
        pushed = flat if evidence.moments is None else flat @ evidence.moments.covariance[group]
        errors.append((flat * pushed).sum(1))
    if sensitivity is None:
        return one.error**2
    return 0.5 * float((torch.cat(errors).double() * sensitivity).sum().clamp_min(0))
