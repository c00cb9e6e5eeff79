"""The quantize technique: fold, equalize, scale, calibrate, round, convert, report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compresskit.core.edits import replay
from compresskit.core.errors import InputError
from compresskit.core.modules import get_module
from compresskit.core.train import train
from compresskit.core.types import Context, Inputs, Loaded, StepResult

from . import calibration, smoothing
from .bias import correct_bias
from .codebook import share_weights
from .equalization import equalize
from .folding import fold_batchnorm
from .layers import convert, to_matrix
from .lsq import distill_objective, take_over, trainable
from .mixed import allocate
from .moments import Moments, collect, layers_with_patches
from .observers import Levels
from .options import QuantizeOptions
from .plan import LayerPlan, chosen_names, make_plan
from .products import count_operands
from .report import layer_table, size_facts
from .rounding import Problem
from .spec import Spec
from .tables import ROUNDINGS
from .trace import Trace, trace
from .uniform import Grid, make_grid
from .weights import safe_scale_type, store_codebook, store_float8, store_grid


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
    operands = _operands(loaded, options)
    plans, notes = make_plan(loaded.module, record, options, products=operands)
    operands = {name: operands[name] for name in chosen_names(operands, options)}
    facts: dict[str, Any] = {
        "scheme": options.scheme,
        "quantized_layers": len(plans),
        "folded_batchnorms": len(folded),
    }
    if options.equalize:
        facts["equalized_pairs"] = len(equalize(loaded.module, record))
    moments = _collect_moments(loaded.module, plans, batches, options, context)
    _scale_inputs(loaded, plans, moments, options)
    if moments and (options.smooth is not None or options.awq):
        moments = _collect_moments(loaded.module, plans, batches, options, context)
    tables: dict[str, list[dict[str, Any]]] = {}
    files: dict[str, Any] = {}
    if options.target_bits is not None:
        allocation = allocate(
            loaded.module, plans, moments, batches, options, context, lambda matrix, spec: _grid(matrix, spec, options)
        )
        plans = allocation.plans
        facts |= allocation.facts
        tables["sensitivity"] = allocation.table
        files |= allocation.files
    float_model = loaded.clone().module
    ranges = _activation_ranges(loaded.module, record, plans, operands, batches, options)
    for plan in plans:
        context.log(f"quantizing {plan.name} to {plan.spec.bits} bits")
        spec = quantize_layer(loaded.module, plan, options, moments.get(plan.name), context.seed)
        loaded.edits.append(spec.as_edit(plan.name))
        _set_storage(loaded, plan.name, spec, options)
    notes += _quantize_activations(loaded, plans, operands, ranges, options)
    if options.scheme_row().activations != "none":
        facts["quantized_product_operands"] = sum(operands.values())
    notes += _missing_moments(plans, moments, options)
    if any(plan.spec.bits == 7 and not plan.spec.packed for plan in plans) and options.uses_half_range():
        notes.append(
            "int8 weights use 7-bit codes, which x86 kernels without VNNI cannot saturate; code_range full: all 8"
        )
    if options.qat != "none":
        facts["qat"] = _train_quantized(loaded, float_model, options, context)
    probe = next(iter(batches)) if batches is not None else loaded.example
    tables["quantized layers"] = layer_table(
        float_model, loaded.module, [plan.name for plan in plans], probe, loaded.storage
    )
    facts |= size_facts(float_model, loaded)
    return StepResult(loaded, facts, notes, tables, files)


def _calibration_batches(options: QuantizeOptions, context: Context) -> Iterable[Inputs] | None:
    if context.data is None:
        if options.needs_data():
            raise InputError("these quantize options are calibrated on data, and there is none; add --data")
        return None
    samples, batch_size = options.calibration_samples, options.calibration_batch
    return context.data.calibration(samples, batch_size=batch_size, seed=context.seed)


def _collect_moments(
    root: nn.Module, plans: list[LayerPlan], batches: Iterable[Inputs], options: QuantizeOptions, context: Context
) -> dict[str, Moments]:
    if not options.needs_moments():
        return {}
    return collect(root, layers_with_patches(root, [plan.name for plan in plans]), batches, context.seed)


def _scale_inputs(
    loaded: Loaded, plans: list[LayerPlan], moments: dict[str, Moments], options: QuantizeOptions
) -> None:
    """Apply SmoothQuant or AWQ to every layer it fits, and record the edits."""
    if options.smooth is None and not options.awq:
        return
    for plan in plans:
        layer = get_module(loaded.module, plan.name)
        if plan.name not in moments or (options.smooth is not None and plan.spec.input == "none"):
            continue
        if options.smooth is not None:
            edit = smoothing.smooth(layer, moments[plan.name], options.smooth)
        else:

            def grid_of(matrix: Tensor, spec: Spec = plan.spec) -> Grid:
                return _grid(matrix, spec, options)

            factors = smoothing.search_factors(layer, moments[plan.name], grid_of, plan.spec.axis)
            edit = smoothing.move_to_weights(layer, factors)
        loaded.edits.append(edit.as_edit(plan.name))


def quantize_layer(
    root: nn.Module, plan: LayerPlan, options: QuantizeOptions, moments: Moments | None, seed: int
) -> Spec:
    """Round one layer's weights and convert the layer in place; static activations are left for later.

    Args:
        root: the model.
        plan: the layer, and how to quantize it.
        options: rounding and ranges.
        moments: of the layer's inputs, where a method needs them.
        seed: for methods that draw anything.
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
        elif spec.format == "codebook":
            keep_zeros = "as-index-0" if spec.zero_index else "no"
            shared = share_weights(matrix, spec.bits, options.codebook_start, seed, keep_zeros=keep_zeros)
            store_codebook(layer, name, *shared)
        else:
            grid = _grid(matrix, spec, options)
            second = moments.mean_second() if moments else None
            codes = ROUNDINGS.load(options.rounding)(Problem(matrix, grid, second, seed))
            store_grid(layer, name, grid, codes)
    if options.bias_correction and moments and layer.bias is not None:
        with torch.no_grad():
            rounded = to_matrix(layer.dequantized("weight"), spec.axis)
        correct_bias(layer, rounded - matrices["weight"], moments)
    return spec


def _train_quantized(
    loaded: Loaded, float_model: nn.Module, options: QuantizeOptions, context: Context
) -> dict[str, Any]:
    """Train the quantized model's weights and steps in float, and take the result over."""
    shadow = replace(loaded, module=trainable(loaded.module, float_model), edits=[], storage={})
    objective = distill_objective(float_model.to(context.device)) if options.qat == "kd" else None
    trained = train(shadow, options, context, objective=objective)
    take_over(shadow.module, loaded.module)
    return trained


def _set_storage(loaded: Loaded, name: str, spec: Spec, options: QuantizeOptions) -> None:
    """A quantized weight's own codec goes with it; its codes get the one that is asked for."""
    for parameter in spec.parameters:
        prefix = f"{name}.{parameter}" if name else parameter
        loaded.storage.pop(prefix, None)
        if options.coding == "huffman":
            loaded.storage[f"{prefix}_values"] = "huffman"


def _grid(matrix: Tensor, spec: Spec, options: QuantizeOptions) -> Grid:
    search = options.weight_search
    if search == "auto":
        search = "mse" if spec.bits < 7 else "minmax"
    return make_grid(
        matrix,
        spec.bits,
        spec.granularity,
        spec.group_size,
        symmetric=spec.symmetric,
        search=search,
        scale_type=spec.scale_type,
    )


def _operands(loaded: Loaded, options: QuantizeOptions) -> dict[str, int]:
    """How many operands of its own products each module reads, where those are to be quantized."""
    if not options.quantize_attention or options.scheme_row().activations == "none":
        return {}
    return count_operands(loaded.module, loaded.example)


def _activation_ranges(
    root: nn.Module,
    record: Trace,
    plans: list[LayerPlan],
    operands: dict[str, int],
    batches: Iterable[Inputs],
    options: QuantizeOptions,
) -> dict[calibration.Site, tuple[float, float]]:
    layers = [plan.name for plan in plans if plan.spec.input == "static"]
    if options.scheme_row().activations != "static":
        return {}
    sites = calibration.find_sites(root, record, layers, additions=options.quantize_additions)
    sites += calibration.operand_sites(operands)
    levels = _levels(options)
    ranges = calibration.observe(
        root, sites, batches, observer=options.observer, levels=levels, percentile=options.percentile
    )
    return {site: ranges[site.key] for site in sites}


def _levels(options: QuantizeOptions) -> Levels:
    return Levels(8, options.activation_range == "symmetric")


def _quantize_activations(
    loaded: Loaded,
    plans: list[LayerPlan],
    operands: dict[str, int],
    ranges: dict[calibration.Site, tuple[float, float]],
    options: QuantizeOptions,
) -> list[str]:
    """Convert modules whose activations are quantized, set ranges, record edits; notes on layers left without."""
    levels, own_ranges = _levels(options), options.scheme_row().activations
    for name, count in operands.items():
        spec = Spec(operands=count, operand_ranges=own_ranges, operand_symmetric=levels.symmetric)
        convert(get_module(loaded.module, name), spec)
        loaded.edits.append(spec.as_edit(name))
    for site, edges in ranges.items():
        layer = get_module(loaded.module, site.module)
        if site.side != "operand":
            spec = Spec(**{site.side: "static", f"{site.side}_symmetric": levels.symmetric})
            convert(layer, spec)
            loaded.edits.append(spec.as_edit(site.module))
        calibration.store_range(layer, site.side, edges, levels, site.index)
    if operands or ranges or any(plan.spec.input == "dynamic" for plan in plans):
        loaded.edits.extend(_leave_fused_paths(loaded.module))
    observed = {site.module for site in ranges if site.side == "input"}
    observed |= {f"{name}.out_proj" for name in operands}  # MultiheadAttention projects by itself
    missing = [plan.name for plan in plans if plan.spec.input == "static" and plan.name not in observed]
    return [f"{name}: weights only, its own forward is not called" for name in missing]


def _leave_fused_paths(root: nn.Module) -> list[dict[str, Any]]:
    """Edits that keep transformer layers from their fused inference path, which reads weights past their layers."""
    edits = []
    for name, module in root.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer) and module.activation_relu_or_gelu:
            edits.append({"op": "resize", "target": name, "attributes": {"activation_relu_or_gelu": 0}})
    replay(root, edits)
    return edits


def _missing_moments(plans: list[LayerPlan], moments: dict[str, Moments], options: QuantizeOptions) -> list[str]:
    if not options.needs_moments():
        return []
    return [
        f"{plan.name}: rounded to nearest, no method here covers its kind" for plan in plans if plan.name not in moments
    ]
