"""Quantization under a latency budget as a search: each place is a layer, which computes in int8 or in float."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...analysis.dataflow import trace
from ...analysis.measure.work import Work, exact_costs
from ...core.errors import InputError
from ...core.tensors.copying import copy_module
from ...core.tensors.modules import get_module, set_module
from ...core.types import Loaded
from ...quantization.calibration.activations import (
    activation_ranges,
    find_all_sites,
    product_operands,
    quantize_activations,
    ranges_of,
)
from ...quantization.layers.weights import bytes_by_kind
from ...quantization.mixed_precision.latency_budget import measured_damages
from ...quantization.options import QuantizeOptions
from ...quantization.plan import make_plan
from ...quantization.quantize import collect_statistics, int8_layers, layer_times
from ...quantization.transforms.folding import fold_batchnorm
from ...training.context import Context
from ..options import SearchOptions
from ..problem.features import layer_features
from ..problem.subject import Choice, Place

_INT8 = 0


class Int8Subject:
    """Layers of a model, each of them in int8 (weights, and activations by static ranges) or in float.

    Times are those of ONNX Runtime on one thread, whose kernels compute in integers: the float model's, layer by layer,
    and what each layer gains in int8. Layers that gain nothing stay in float.

    Args:
        loaded: the model (stays untouched).
        options: rounding and calibration.
        context: data and seed.
    Raises:
        InputError: if no layer is faster in int8, or ONNX Runtime is not installed.
    """

    def __init__(self, loaded: Loaded, options: SearchOptions, context: Context):
        self._options = _step_options(options)
        batches = context.calibration_batches(options.samples)
        self._probes = context.calibration_batches(options.probe_samples)
        self._folded = loaded.clone()
        fold_batchnorm(self._folded)
        root = self._folded.module.eval()
        self._record = trace(root, loaded.example)
        self._operands = product_operands(self._folded, self._options)
        plans, self.notes = make_plan(root, self._record, self._options, products=self._operands)
        in_float, in_int8 = layer_times(self._folded, plans, self._options, context)
        gains = {plan.name: in_float.layers.get(plan.name, 0) - in_int8.layers.get(plan.name, 0) for plan in plans}
        self._plans = [plan for plan in plans if gains[plan.name] > 0]
        self.notes += [f"left out {name}: int8 makes it no faster" for name, gain in gains.items() if gain <= 0]
        if not self._plans:
            raise InputError(f"model {loaded.name!r}: no layer is faster in int8 in ONNX Runtime here")
        statistics = collect_statistics(root, self._plans, batches, self._options, context)
        self._ranges = activation_ranges(root, self._record, self._plans, self._operands, batches, self._options)
        self._layers = int8_layers(root, self._plans, self._ranges, statistics, self._options, context.seed)
        self._timed, self._costs = options.needs_timed_target(), options.costs()
        whole_bytes = float(sum(bytes_by_kind(loaded.module, loaded.storage).values()))
        self._whole = self._figures(in_float.total_ms, whole_bytes)
        # one quantized layer is enough to have every normalization folded away
        self._folding = self._figures(0.0, whole_bytes - float(sum(bytes_by_kind(root, loaded.storage).values())))
        self._saved = {plan.name: self._figures(gains[plan.name], self._saved_bytes(plan.name)) for plan in self._plans}
        features = layer_features(self._folded, list(self._saved))
        self.places = [
            Place(
                name, (8 / 32, 1.0), ("int8", "float"),
                {**features.get(name, {}), "cost_share": in_float.layers[name] / max(in_float.total_ms, 1e-9)},
            )
            for name in self._saved
        ]  # fmt: skip

    def _figures(self, latency_ms: float, stored_bytes: float) -> dict[str, float]:
        return exact_costs(Work(stored_bytes=stored_bytes), self._costs) | {self._timed: latency_ms}

    def _saved_bytes(self, name: str) -> float:
        before, after = get_module(self._folded.module, name), self._layers[name]
        return float(sum(bytes_by_kind(before).values()) - sum(bytes_by_kind(after).values()))

    def costs(self, choice: Choice) -> dict[str, float]:
        """Predicted milliseconds in ONNX Runtime, and bytes as they are stored."""
        chosen = [saved for saved, level in zip(self._saved.values(), choice, strict=True) if level == _INT8]
        found = {name: whole - sum(saved[name] for saved in chosen) for name, whole in self._whole.items()}
        return {name: figure - self._folding[name] for name, figure in found.items()} if chosen else found

    def whole_costs(self) -> dict[str, float]:
        """The same of the model in float."""
        return dict(self._whole)

    @torch.no_grad()
    def build(self, choice: Choice) -> nn.Module:
        """The model as the `quantize` step makes it: it computes in float what int8 kernels compute."""
        made = self._folded.clone()
        plans = [plan for plan, level in zip(self._plans, choice, strict=True) if level == _INT8]
        for plan in plans:
            set_module(made.module, plan.name, copy.deepcopy(self._layers[plan.name]))
        if plans:
            sites = find_all_sites(self._folded.module, self._record, plans, self._operands, self._options)
            quantize_activations(made, plans, self._operands, ranges_of(sites, self._ranges), self._options)
        return made.module.eval()

    @cached_property
    def _damages(self) -> dict[str, float]:
        return measured_damages(copy_module(self._folded.module), self._layers, self._probes)

    def errors(self, place: int) -> list[float]:
        """Measured divergence of the model with this layer alone in int8."""
        return [self._damages[self.places[place].name], 0.0]

    def steps(self, choice: Choice) -> list[dict[str, Any]]:
        """A `quantize` step that names the layers in int8; none where all stay in float."""
        names = [place.name for place, level in zip(self.places, choice, strict=True) if level == _INT8]
        return [{"quantize": {**self._options.model_dump(exclude_unset=True), "layers": names}}] if names else []


def _step_options(options: SearchOptions) -> QuantizeOptions:
    return QuantizeOptions(
        scheme="int8-static", first_last="same", rounding=options.rounding, calibration_samples=options.samples
    )
