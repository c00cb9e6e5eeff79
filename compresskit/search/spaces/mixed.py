"""Everything at once as a search: channels of each group, ranks and bits of each layer, under one budget or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ...analysis.calibration.moments import Moments
from ...analysis.dataflow import trace
from ...core.errors import InputError
from ...core.types import Loaded
from ...decomposition.fit.fit import fit_activation, fit_weight
from ...decomposition.ranks.candidates import Candidate
from ...decomposition.surgery.find_layers import Site
from ...decomposition.surgery.surgery import data_evidence, put_factors, weight_evidence
from ...decomposition.tables import KINDS
from ...quantization.blockwise import quantize_layer
from ...quantization.calibration.layer_inputs import collect_inputs, roundable
from ...quantization.plan import make_plan
from ...quantization.transforms.folding import fold_batchnorm
from ...training.batchnorm import estimate_batchnorm
from ...training.context import Context
from ..options import SearchOptions
from ..problem.evaluator import first_examples
from ..problem.subject import Choice, Place
from .decompose import DecomposeSubject, decompose_step
from .mixed_costs import Chain, MixedCosts
from .prune import PruneSubject
from .quantize import QuantizeSubject, quantize_options, weight_levels

#: decomposed layers whose channels may go as well: a weight of (outputs, inputs, *kernel)
_PLAIN = ("linear", "conv")


class MixedSubject:
    """Channel groups, layers' ranks and layers' bits of one model; each is a place of its own.

    They compose: channels go first, ranks are shares of what the narrowed layer costs, factors are rounded last.
    Losses of the places are predicted from the whole model, once for every budget. A candidate's factors are fitted
    from the whole model's moments, of which the inputs that stay are taken; the step that carries the winner out takes
    moments from the cut model.

    Args:
        loaded: the model (stays untouched).
        options: what is mixed, and the space and calibration of each.
        context: data and seed.
    Raises:
        InputError: if nothing of it fits the model.
    """

    def __init__(self, loaded: Loaded, options: SearchOptions, context: Context):
        self._loaded, self._options, self._context = loaded, options, context
        self._moments: dict[str, Moments] = {}
        self.notes: list[str] = []
        parts = options.parts()
        self._ratio = self._part("ratio", parts, lambda: PruneSubject(loaded, options, context))
        self._rank = self._part("rank", parts, lambda: DecomposeSubject(loaded, options, context, self._moments))
        self._bits = self._part("bits", parts, lambda: QuantizeSubject(loaded, options, context))
        self._sites, self._ranked = self._ranked_sites()
        batches = context.calibration_batches(options.samples)
        self._recalibration = first_examples(batches, options.recalibration_samples)
        self._widths = list(self._ratio.places) if self._ratio else []
        self._factors = [self._rank.places[number] for number in self._ranked]
        self._codes = list(self._bits.places) if self._bits else []
        self.places = [
            *(replace(place, name=f"channels of {place.name}") for place in self._widths),
            *(_by_share(place) for place in self._factors),
            *(replace(place, name=f"bits of {place.name}") for place in self._codes),
        ]
        if not self.places:
            raise InputError(f"model {loaded.name!r}: nothing to search: {'; '.join(self.notes)}")
        self._costs = MixedCosts(
            loaded, self._ratio.graph if self._ratio else None, self._sites,
            {place.name: place.shares for place in self._factors}, self._bits.specs if self._bits else {},
            self._bits.folds if self._bits else [], options,
        )  # fmt: skip

    def _part(self, name: str, parts: list[str], make: Callable[[], Any]) -> Any:
        """The subject of one part; None where it is not wanted or does not fit the model."""
        if name not in parts:
            return None
        try:
            subject = make()
        except InputError as error:
            self.notes.append(f"{name} left out: {error}")
            return None
        self.notes += subject.notes
        return subject

    def _ranked_sites(self) -> tuple[dict[str, Site], list[int]]:
        """Layers whose rank is searched, and their numbers among the places of decomposition."""
        found, numbers = {}, []
        for number, site in enumerate(self._rank.sites if self._rank else []):
            if site.geometry.form in _PLAIN and site.geometry.groups == 1 or self._ratio is None:
                found[site.name] = site
                numbers.append(number)
            else:
                self.notes.append(f"rank of {site.name} left out: a grouped or transposed layer may lose channels here")
        return found, numbers

    # -- costs and losses ---------------------------------------------------------------------------------------------

    def _split(self, choice: Choice) -> tuple[Choice, dict[str, int], dict[str, int]]:
        """Levels of the groups; of the ranks and of the bits by layer."""
        first, second = len(self._widths), len(self._widths) + len(self._factors)
        ranks = {place.name: level for place, level in zip(self._factors, choice[first:second], strict=True)}
        bits = {place.name: level for place, level in zip(self._codes, choice[second:], strict=True)}
        return choice[:first], ranks, bits

    def _kept(self, channels: Choice) -> np.ndarray:
        return self._ratio.kept(channels) if self._ratio else np.zeros(0)

    def costs(self, choice: Choice) -> dict[str, float]:
        """The exact costs of a choice and, where the budget bounds it, its predicted latency."""
        channels, ranks, bits = self._split(choice)
        kept = self._kept(channels)
        found = self._costs(kept, ranks, bits)
        timed = self._options.timed_target()
        return {**found, timed: self._latency_ms(timed, kept, ranks)} if timed else found

    def _latency_ms(self, timed: str, kept: np.ndarray, ranks: dict[str, int]) -> float:
        """What the cut model takes, less what its factors save: shares of a layer's time hold at every width."""
        if self._ratio is None:
            return self._rank.costs(tuple(ranks.values()))[timed]
        layers, total = self._ratio.latency.layers(kept), self._ratio.latency(kept)
        for name, level in ranks.items():
            if self._costs.chain(name, kept, level) is not None:
                total -= layers.get(name, 0.0) * (1 - self._rank.latency_shares(name)[level])
        return total

    def whole_costs(self) -> dict[str, float]:
        """The same of the model as it is."""
        timed = self._options.timed_target()
        if timed is None:
            return dict(self._costs.whole)
        return {**self._costs.whole, timed: (self._ratio or self._rank).whole_costs()[timed]}

    def errors(self, place: int) -> list[float]:
        """Predicted divergence of each level alone."""
        if place < len(self._widths):
            return self._ratio.errors(place)
        place -= len(self._widths)
        if place < len(self._factors):
            return self._rank.errors(self._ranked[place])
        return self._bits.errors(place - len(self._factors))

    def _chains(self, channels: Choice, ranks: dict[str, int]) -> dict[str, Chain]:
        """The layers that a choice factors."""
        kept = self._kept(channels)
        found = {name: self._costs.chain(name, kept, level) for name, level in ranks.items()}
        return {name: chain for name, chain in found.items() if chain is not None}

    # -- candidates and steps -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def build(self, choice: Choice) -> nn.Module:
        """A copy that is cut, factored and rounded, BatchNorm statistics estimated again before the last."""
        channels, ranks, bits = self._split(choice)
        chains, steps = self._chains(channels, ranks), self._cut_steps(channels)
        module = self._ratio.cut_copy(channels) if steps else self._loaded.clone().module
        for name, chain in chains.items():
            self._factor(module, name, chain, channels)
        if self._recalibration and (steps or chains):
            estimate_batchnorm(module, self._recalibration)
        if bits:
            self._round(module, chains, bits)
        return module

    def _factor(self, module: nn.Module, name: str, chain: Chain, channels: Choice) -> None:
        moments = self._moments.get(name)
        if moments is None:
            evidence, fit_by = weight_evidence(module, chain.site), fit_weight
        else:
            evidence, fit_by = data_evidence(module, chain.site, self._of_kept(name, moments, channels)), fit_activation
        fit = fit_by(KINDS.load(chain.kind), chain.site.geometry, chain.ranks, evidence)
        one = Candidate(chain.kind, chain.ranks, fit.error, 0, 0)
        put_factors(module, chain.site, one, fit, fitted_to_data=moments is not None)

    def _of_kept(self, name: str, moments: Moments, channels: Choice) -> Moments:
        """A layer's moments, of the inputs that stay."""
        if self._ratio is None:
            return moments
        stays = self._ratio.inputs_that_stay(name, channels)
        if stays is None or stays.all():
            return moments
        columns = torch.from_numpy(np.flatnonzero(np.repeat(stays, moments.mean.shape[1] // len(stays))))
        return moments.of_columns(columns)

    def _round(self, module: nn.Module, chains: dict[str, Chain], bits: dict[str, int]) -> None:
        """Fold and round in place, as the `quantize` step does."""
        options, seed = self._quantize_options(chains, bits), self._context.seed
        loaded = replace(self._loaded, module=module, edits=[], storage={})
        fold_batchnorm(loaded)
        plans, _ = make_plan(module, trace(module, loaded.example), options)
        statistics = {}
        if options.needs_moments():
            batches = self._context.calibration_batches(
                options.calibration_samples, batch_size=options.calibration_batch
            )
            statistics = collect_inputs(module, roundable(module, [plan.name for plan in plans]), batches, seed)
        for plan in plans:
            quantize_layer(module, plan, options, statistics.get(plan.name), seed)

    def _quantize_options(self, chains: dict[str, Chain], bits: dict[str, int]) -> Any:
        levels = weight_levels(self._options)
        # a factored layer is a chain of layers under its name
        return quantize_options(self._options, {
            f"{name}.*" if name in chains else name: levels[level] for name, level in bits.items()
        })  # fmt: skip

    def _cut_steps(self, channels: Choice) -> list[dict[str, Any]]:
        return self._ratio.steps(channels) if self._ratio else []

    def steps(self, choice: Choice) -> list[dict[str, Any]]:
        """`prune`, `decompose` and `quantize` steps, those that change something."""
        channels, ranks, bits = self._split(choice)
        chains = self._chains(channels, ranks)
        found = self._cut_steps(channels)
        if chains:
            given = {name: max(chain.ranks) for name, chain in chains.items()}
            found.append(decompose_step(self._options, given))
        if bits:
            options = self._quantize_options(chains, bits)
            found.append({"quantize": options.model_dump(exclude_unset=True)})
        return found


def _by_share(place: Place) -> Place:
    """A rank's place: what rank a share means depends on the layer's width, so levels say the share."""
    labels = (*(f"ranks at {share:.0%} of its MACs" for share in place.shares[:-1]), "whole")
    return replace(place, name=f"rank of {place.name}", labels=labels)
