"""Activations of a quantize step: which are quantized, their ranges, and the conversion of modules to do it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from compresskit.artifact.edits import leave_fused_paths
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs, Loaded

from ...analysis.dataflow import Trace
from ...core.reporting.phases import phase
from ..layers.conversion import convert
from ..layers.layer_spec import Spec
from ..options import QuantizeOptions
from ..plan import LayerPlan
from . import calibration
from .attention_matmuls import count_operands
from .observers import Levels
from .sites import Site, find_sites, operand_sites

#: from what gets quantized to its lowest and highest value
Ranges = dict[Site, tuple[float, float]]


def product_operands(loaded: Loaded, options: QuantizeOptions) -> dict[str, int]:
    """How many operands of its own products each module reads, where those are to be quantized."""
    if not options.quantize_attention or options.scheme_row().activations == "none":
        return {}
    return count_operands(loaded.module, loaded.example)


@phase("calibrate")
def activation_ranges(
    root: nn.Module,
    record: Trace,
    plans: list[LayerPlan],
    operands: dict[str, int],
    batches: Iterable[Inputs],
    options: QuantizeOptions,
) -> Ranges:
    """The range of every activation that a static scheme quantizes; other schemes have none.

    Raises:
        InputError: if calibration sees no finite value of one.
    """
    if options.scheme_row().activations != "static":
        return {}
    sites = find_all_sites(root, record, plans, operands, options)
    levels = activation_levels(options)
    ranges = calibration.observe(
        root, sites, batches, observer=options.observer, levels=levels, percentile=options.percentile
    )
    return {site: ranges[site.key] for site in sites}


def find_all_sites(
    root: nn.Module, record: Trace, plans: list[LayerPlan], operands: dict[str, int], options: QuantizeOptions
) -> list[Site]:
    """The activations that these layers and products need in integers."""
    own_bits = {plan.name: plan.spec.input_bits for plan in plans if plan.spec.input == "static"}
    # integer runtimes compute nothing in fewer bits, so that what they add need not be in integers
    additions = options.quantize_additions and options.input_bits() == 8
    sites = find_sites(root, record, own_bits, additions=additions) + operand_sites(operands)
    return [_with_bits(site, own_bits.get(site.module, 8), options) for site in sites]


def _with_bits(site: Site, bits: int, options: QuantizeOptions) -> Site:
    """The site with other bits than most have; a tensor has a range of its own for each number of bits."""
    bits = 8 if site.side == "operand" else bits
    return site if bits == options.input_bits() else replace(site, bits=bits, key=(*site.key, bits))


def ranges_of(sites: list[Site], known: Ranges) -> Ranges:
    """The sites' ranges, which are those of their tensors wherever those were observed."""
    by_key = {site.key: edges for site, edges in known.items()}
    return {site: by_key[site.key] for site in sites if site.key in by_key}


def activation_levels(options: QuantizeOptions) -> Levels:
    """The quantizer of activations."""
    return Levels(options.input_bits(), options.activation_range == "symmetric")


def quantize_activations(
    loaded: Loaded,
    plans: list[LayerPlan],
    operands: dict[str, int],
    ranges: Ranges,
    options: QuantizeOptions,
) -> list[str]:
    """Convert modules whose activations are quantized, set ranges, record edits; notes on layers left without."""
    levels, own_ranges = activation_levels(options), options.scheme_row().activations
    for name, count in operands.items():
        spec = Spec(operands=count, operand_ranges=own_ranges, operand_symmetric=levels.symmetric)
        convert(get_module(loaded.module, name), spec)
        loaded.edits.append(spec.as_edit(name))
    for site, edges in ranges.items():
        layer = get_module(loaded.module, site.module)
        if site.side != "operand":
            own = calibration.levels_at(site, levels)
            side: dict[str, Any] = {"": "static", "_bits": own.bits, "_symmetric": own.symmetric}
            spec = Spec(**{f"{site.side}{key}": value for key, value in side.items()})
            convert(layer, spec)
            loaded.edits.append(spec.as_edit(site.module))
        calibration.store_range(layer, site.side, edges, calibration.levels_at(site, levels), site.index)
    if operands or ranges or any(plan.spec.input == "dynamic" for plan in plans):
        loaded.edits.extend(leave_fused_paths(loaded.module))
    return _left_in_float(loaded.module, plans, operands, ranges) if own_ranges != "none" else []


def _left_in_float(root: nn.Module, plans: list[LayerPlan], operands: dict[str, int], ranges: Ranges) -> list[str]:
    """Notes on layers whose weights are quantized and whose activations are not."""
    observed = {site.module for site in ranges if site.side == "input"}
    observed |= {f"{name}.out_proj" for name in operands}  # MultiheadAttention projects by itself
    notes = []
    for plan in plans:
        layer = get_module(root, plan.name)
        if plan.spec.input == "static" and plan.name not in observed:
            notes.append(f"{plan.name}: weights only, its own forward is not called")
        elif isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            notes.append(f"{plan.name}: weights only, recurrent layers keep their activations in float")
        elif isinstance(layer, nn.MultiheadAttention) and plan.name not in operands:
            notes.append(f"{plan.name}: weights only, attention stays in float")
    return notes
