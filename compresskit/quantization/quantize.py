"""The quantize technique: plan, fold, calibrate, round, convert, report."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.modules import get_module
from compresskit.core.types import Context, Inputs, Loaded, StepResult

from . import calibration
from .folding import fold_batchnorm
from .layers import Spec, convert, to_matrix
from .observers import Levels
from .options import QuantizeOptions
from .plan import LayerPlan, make_plan
from .report import layer_table, size_facts
from .rounding import Problem
from .tables import ROUNDINGS
from .trace import Trace, trace
from .uniform import make_grid
from .weights import safe_scale_type, store_float8, store_grid


def quantize(loaded: Loaded, options: QuantizeOptions, context: Context) -> StepResult:
    """Quantize a model's weights, and with a static or dynamic scheme its activations.

    Args:
        loaded: the model; changed in place, edits appended.
        options: what to quantize and how.
        context: data for calibration, seed, log.
    Returns:
        the model, with bytes by kind and a table of layers.
    Raises:
        InputError: if calibration needs data and there is none, or no layer is left to quantize.
    """
    batches = _calibration_batches(options, context)
    folded = fold_batchnorm(loaded) if options.fold_batchnorm else []
    record = trace(loaded.module, loaded.example)
    plans, notes = make_plan(loaded.module, record, options)
    float_model = loaded.clone().module
    ranges = _activation_ranges(loaded.module, record, plans, batches, options)
    for plan in plans:
        spec = quantize_layer(loaded.module, plan, options, context)
        loaded.edits.append(spec.as_edit(plan.name))
    notes += _quantize_activations(loaded, plans, ranges, options)
    probe = next(iter(batches)) if batches is not None else loaded.example
    table = layer_table(float_model, loaded.module, [plan.name for plan in plans], probe)
    facts = {
        "scheme": options.scheme,
        "quantized_layers": len(plans),
        "folded_batchnorms": len(folded),
        **size_facts(float_model, loaded.module),
    }
    return StepResult(loaded, facts=facts, notes=notes, tables={"quantized layers": table})


def _calibration_batches(options: QuantizeOptions, context: Context):
    if context.data is None:
        if options.needs_data():
            raise InputError(
                f"scheme {options.scheme!r} with rounding {options.rounding!r} is calibrated on data; add --data"
            )
        return None
    return context.data.calibration(
        options.calibration_samples, batch_size=options.calibration_batch, seed=context.seed
    )


def quantize_layer(root: nn.Module, plan: LayerPlan, options: QuantizeOptions, context: Context) -> Spec:
    """Round one layer's weights and convert the layer in place; its activations are left for later.

    Returns:
        the spec that the layer got.
    """
    layer = get_module(root, plan.name)
    spec = replace(plan.spec, input="dynamic" if plan.spec.input == "dynamic" else "none")
    matrices = {name: to_matrix(layer._parameters[name].detach().float(), spec.axis) for name in spec.parameters}
    if spec.scale_type == "float16" and spec.format == "int":
        types = [safe_scale_type(matrix, spec) for matrix in matrices.values()]
        spec = replace(spec, scale_type="float32" if "float32" in types else "float16")
    convert(layer, spec)
    for name, matrix in matrices.items():
        if spec.format == "float8":
            store_float8(layer, name, matrix, spec.granularity, spec.group_size)
        else:
            grid = make_grid(
                matrix, spec.bits, spec.granularity, spec.group_size,
                symmetric=spec.symmetric, search=_search(spec, options), scale_type=spec.scale_type,
            )  # fmt: skip
            codes = ROUNDINGS.load(options.rounding)(Problem(matrix, grid, None, context.seed))
            store_grid(layer, name, grid, codes)
    return spec


def _search(spec: Spec, options: QuantizeOptions) -> str:
    if options.weight_search != "auto":
        return options.weight_search
    return "minmax" if spec.bits == 8 else "mse"


def _activation_ranges(
    root: nn.Module, record: Trace, plans: list[LayerPlan], batches: list[Inputs], options: QuantizeOptions
) -> dict[calibration.Site, tuple[float, float]]:
    layers = [plan.name for plan in plans if plan.spec.input == "static"]
    if not layers:
        return {}
    sites = calibration.find_sites(root, record, layers, additions=options.quantize_additions)
    ranges = calibration.observe(
        root, sites, batches,
        observer=options.observer, levels=_levels(options), percentile=options.percentile,
    )  # fmt: skip
    return {site: ranges[site.key] for site in sites}


def _levels(options: QuantizeOptions) -> Levels:
    return Levels(8, options.activation_range == "symmetric")


def _quantize_activations(
    loaded: Loaded,
    plans: list[LayerPlan],
    ranges: dict[calibration.Site, tuple[float, float]],
    options: QuantizeOptions,
) -> list[str]:
    """Convert the sites' modules, set their ranges, record the edits; returns notes on layers left without."""
    levels = _levels(options)
    for site, edges in ranges.items():
        spec = Spec(**{site.side: "static", f"{site.side}_symmetric": levels.symmetric})
        layer = convert(get_module(loaded.module, site.module), spec)
        calibration.store_range(layer, site.side, edges, levels)
        loaded.edits.append(spec.as_edit(site.module))
    observed = {site.module for site in ranges if site.side == "input"}
    missing = [plan.name for plan in plans if plan.spec.input == "static" and plan.name not in observed]
    return [f"{name}: weights only, its own forward is not called" for name in missing]
