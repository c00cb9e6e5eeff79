"""Quantization as a search: each place is a layer, its levels are bits a weight, or number formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.moments import output_error
from ...analysis.dataflow import trace
from ...analysis.measure.work import Work, exact_costs, work_of
from ...analysis.sensitivity.channels import drawn_class, output_sensitivities, unlabelled
from ...core.errors import InputError
from ...core.tensors.copying import copy_module
from ...core.tensors.modules import get_module, tensor_of
from ...core.types import Loaded
from ...quantization.blockwise import quantize_layer
from ...quantization.calibration.layer_inputs import LayerInputs, collect_inputs, roundable
from ...quantization.layers.quantized_layer import Quantized, Spec, name_format, to_matrix
from ...quantization.layers.weights import bytes_by_kind
from ...quantization.options import QuantizeOptions
from ...quantization.plan import make_plan
from ...quantization.tables import ROUNDINGS
from ...quantization.transforms.folding import fold_batchnorm
from ...training.context import Context
from ..options import SearchOptions
from ..problem.features import layer_features
from ..problem.subject import Choice, Place
from .int8 import Int8Subject

#: bits of integers, or the name of a number format
Level = int | str


def quantize_subject(loaded: Loaded, options: SearchOptions, context: Context) -> QuantizeSubject | Int8Subject:
    """Bits of weights; where the budget bounds time, int8 or float, because fewer bits than eight save none here."""
    return (Int8Subject if options.timed_target() else QuantizeSubject)(loaded, options, context)


class QuantizeSubject:
    """Weights of a model's layers, each rounded once to every width; a candidate puts rounded weights together.

    Args:
        loaded: the model (stays untouched).
        options: widths, rounding and calibration.
        context: data and seed.
    Raises:
        InputError: if no layer can be quantized.
    """

    def __init__(self, loaded: Loaded, options: SearchOptions, context: Context):
        self._options = options
        self._context = context
        self._work = work_of(loaded) if options.own_targets() else Work()
        self._whole_bytes = float(sum(bytes_by_kind(loaded.module, loaded.storage).values()))
        self._folded = loaded.clone()
        self.folds = fold_batchnorm(self._folded)
        self._folded.module.eval()
        self._levels = weight_levels(options)
        self.specs: dict[str, list[Spec]] = {}  # layer -> for each width, how it is stored
        self._rounded: dict[str, list[dict[str, Tensor]]] = {}  # layer -> for each width, its weights
        self._layer_bytes: dict[str, list[float]] = {}
        self.notes: list[str] = []
        for level in self._levels:
            self._round_all(level)
        # a quantized layer's own bytes count everything that it holds, its bias too
        own = sum(sum(bytes_by_kind(get_module(self._folded.module, name)).values()) for name in self._rounded)
        self._fixed_bytes = float(sum(bytes_by_kind(self._folded.module, loaded.storage).values())) - own
        self.places = self._make_places()

    def _batches(self, samples: int) -> list[Any]:
        if self._context.data is None:
            raise InputError("search scores candidates on data; name some with --data, e.g. --data digits")
        return self._context.calibration_batches(samples)

    @cached_property
    def _statistics(self) -> dict[str, LayerInputs]:
        root = self._folded.module
        names = [name for name, _ in root.named_modules()]
        # estimates need fewer examples than rounding does
        rounds = bool(ROUNDINGS.needs(self._options.rounding))
        batches = self._batches(self._options.samples if rounds else self._options.probe_samples)
        return collect_inputs(root, roundable(root, names), batches, self._context.seed)

    def _round_all(self, level: Level) -> None:
        """Round every layer to one level; what is kept are the weights, and what they take stored."""
        options = quantize_options(self._options, {"*": level})
        work = copy_module(self._folded.module)
        plans, self.notes = make_plan(work, trace(work, self._folded.example), options)
        for plan in plans:
            statistics = self._statistics.get(plan.name) if options.needs_moments() else None
            quantize_layer(work, plan, options, statistics, self._context.seed)
            layer = get_module(work, plan.name)
            if not isinstance(layer, Quantized):
                raise TypeError(f"layer {plan.name!r} is not quantized")
            weights = {name: layer.dequantized(name).detach() for name in layer.spec.parameters}
            self._rounded.setdefault(plan.name, []).append(weights)
            self.specs.setdefault(plan.name, []).append(layer.spec)
            self._layer_bytes.setdefault(plan.name, []).append(float(sum(bytes_by_kind(layer).values())))

    def _make_places(self) -> list[Place]:
        features = layer_features(self._folded, self._rounded)
        total = sum(sizes[-1] for sizes in self._layer_bytes.values())
        widest = max(map(_nominal_bits, self._levels))
        shares = tuple(_nominal_bits(level) / widest for level in self._levels)
        labels = tuple(level if isinstance(level, str) else f"{level} bits" for level in self._levels)
        return [
            Place(name, shares, labels, {**features.get(name, {}), "cost_share": sizes[-1] / total})
            for name, sizes in self._layer_bytes.items()
        ]

    def costs(self, choice: Choice) -> dict[str, float]:
        """Bytes of all tensors as they are stored."""
        chosen = sum(sizes[level] for sizes, level in zip(self._layer_bytes.values(), choice, strict=True))
        return self._costs(self._fixed_bytes + chosen)

    def whole_costs(self) -> dict[str, float]:
        """Bytes of the model as it is."""
        return self._costs(self._whole_bytes)

    def _costs(self, stored_bytes: float) -> dict[str, float]:
        read_bytes = self._work.read_bytes + stored_bytes - self._whole_bytes
        return exact_costs(replace(self._work, stored_bytes=stored_bytes, read_bytes=read_bytes), self._options.costs())

    @torch.no_grad()
    def build(self, choice: Choice) -> nn.Module:
        """A float copy that computes what the quantized model computes."""
        module = copy_module(self._folded.module)
        for (name, widths), level in zip(self._rounded.items(), choice, strict=True):
            layer = get_module(module, name)
            for parameter, weight in widths[level].items():
                layer.get_parameter(parameter).copy_(weight)
        return module

    @cached_property
    def _sensitivities(self) -> dict[str, Tensor]:
        batches = unlabelled(self._batches(self._options.probe_samples))
        return output_sensitivities(
            self._folded.module, list(self._statistics), batches, score=drawn_class(self._context.seed)
        )

    @torch.no_grad()
    def errors(self, place: int) -> list[float]:
        """Predicted divergence of each width: the error of the layer's outputs, weighted."""
        name = self.places[place].name
        layer = get_module(self._folded.module, name)
        widths = self._rounded[name]
        if name not in self._statistics or name not in self._sensitivities:
            return [
                float(sum(float((layer.get_parameter(p).detach() - w).square().sum()) for p, w in weights.items()))
                for weights in widths
            ]
        second = self._statistics[name].moments.second_moment()
        factor = self._sensitivities[name].sqrt().unsqueeze(1)  # (out, 1): errors of a row count by its channel
        found = []
        for weights in widths:
            delta = to_matrix(weights["weight"].double() - tensor_of(layer).detach().double(), 0)
            found.append(0.5 * float(output_error(delta * factor, second)))
        return found

    def steps(self, choice: Choice) -> list[dict[str, Any]]:
        """A `quantize` step with these bits for each layer."""
        levels = {place.name: self._levels[level] for place, level in zip(self.places, choice, strict=True)}
        options = quantize_options(self._options, levels)
        return [{"quantize": options.model_dump(exclude_unset=True)}]


def weight_levels(options: SearchOptions) -> list[Level]:
    """What a layer's weights may take, from the fewest bits a weight to the most."""
    return sorted([*set(options.bits), *dict.fromkeys(options.formats)], key=_nominal_bits)


def _nominal_bits(level: Level) -> float:
    """Bits a weight; of a format with all that it keeps beside the codes, for a matrix of 1,024 x 1,024."""
    if isinstance(level, int):
        return level
    number_format, size = name_format(level), 1024
    options = QuantizeOptions(scheme="int8-weight")
    spec = Spec(("weight",), format=level, **number_format.geometry(number_format.bits, options))
    return 8 * number_format.bytes(size, size, spec) / size**2


def quantize_options(options: SearchOptions, levels: Mapping[str, Level]) -> QuantizeOptions:
    """The options of a `quantize` step as the search makes it.

    Args:
        options: of the search.
        levels: layer name pattern ("*" alone for all) -> bits, or a number format.
    """
    given: dict[str, Any] = {"scheme": "int8-weight", "first_last": "same", "rounding": options.rounding}
    if ROUNDINGS.needs(options.rounding):
        given["calibration_samples"] = options.samples
    if options.seconds is not None:  # of few bits the winner's blocks are tuned, which takes no longer than the search
        longest = QuantizeOptions.model_fields["reconstruction_seconds"].default
        given["reconstruction_seconds"] = min(options.seconds, longest)
    bits = levels.get("*")
    if isinstance(bits, int):
        return QuantizeOptions(**given, bits=bits)
    for key, kind in (("bits_for", int), ("format_for", str)):
        chosen = {pattern: level for pattern, level in levels.items() if isinstance(level, kind)}
        given |= {key: chosen} if chosen else {}
    return QuantizeOptions(**given)
