"""The quantize technique: fold, equalize, scale, calibrate, round, convert, report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from compresskit.core.costs import cost_of, field_of, names
from compresskit.core.errors import InputError
from compresskit.core.tensors.copying import copy_structure
from compresskit.core.tensors.modules import get_module
from compresskit.core.timings.decisions import label
from compresskit.core.types import Inputs, Loaded
from compresskit.evaluation.losses import plain_objective
from compresskit.model.example_inputs import with_batch
from compresskit.model.text_inputs import is_causal
from compresskit.training.context import Context, Profile, StepResult
from compresskit.training.loop import train

from ..analysis.calibration.block_walk.blocks import block_table, find_blocks
from ..analysis.dataflow import trace
from ..analysis.reconstruction.blockwise import outcome_table
from ..analysis.reconstruction.plan import plan_reconstruction
from ..analysis.stream.own_heads import shared_heads, untie
from ..core.reporting.phases import phase
from .blockwise import quantize_layer, round_layers, scale_inputs
from .calibration import calibration
from .calibration.activations import (
    Ranges,
    activation_levels,
    activation_ranges,
    find_all_sites,
    product_operands,
    quantize_activations,
    ranges_of,
)
from .calibration.layer_inputs import InputsInTurn, holding_experts, roundable
from .kv_cache import with_quantized_cache
from .layers.conversion import convert
from .layers.layer_spec import Spec
from .layers.quantized_layer import name_format
from .mixed_precision import latency_budget
from .mixed_precision.choice import allocate, target_bytes
from .mixed_precision.latency_budget import choose_int8
from .options import QuantizeOptions
from .plan import LayerPlan, chosen_names, make_plan
from .qat import held_out_loss, make_distill_objective, take_over, trainable
from .reconstruction import reconstruct_quantized
from .report import layer_table, size_facts
from .transforms.equalization import equalize
from .transforms.folding import fold_batchnorm
from .transforms.rotation import rotate

#: how the copy is quantized on which layers are timed
_TIMED_WITH = {
    **{field_of(name): None for name in names(technique="quantize")},
    "observer": "minmax",
    "calibration_samples": 64,
    "rounding": "nearest",
    "bias_correction": False,
    "smooth": None,
    "rotate": False,
    "kv_bits": None,
    "qat": "none",
    "reconstruct": "none",
}


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
    if is_causal(loaded.module):
        options = options.for_causal_models()
    batches = _calibration_batches(options, context)
    worthwhile = options.few_bits() and not options.trains()
    remarks: list[str] = []
    reconstruction = plan_reconstruction(loaded, options, context, remarks, worthwhile=worthwhile)
    if context.data is not None:
        options = options.with_data(tuned=reconstruction is not None)
    target = target_bytes(loaded, options)
    untied = _own_heads(loaded, options) if is_causal(loaded.module) else []
    folded = fold_batchnorm(loaded) if options.fold_batchnorm else []
    rotated = rotate(loaded, context.seed) if options.rotate else 0
    record = trace(loaded.module, loaded.example)
    operands = product_operands(loaded, options)
    plans, notes = make_plan(loaded.module, record, options, products=operands)
    notes += remarks
    notes += [f"{name} has a weight of its own now, and computes in integers" for name in untied]
    operands = {name: operands[name] for name in chosen_names(operands, options)}
    facts: dict[str, Any] = {
        "scheme": options.scheme,
        "rounding": options.rounding,
        "folded_batchnorms": len(folded),
    }
    if options.rotate:
        facts["rotated_layers"] = rotated
    if options.equalize:
        facts["equalized_pairs"] = len(equalize(loaded.module, record))
    timed = options.timed_target()
    times = layer_times(loaded, plans, options, context) if timed is not None else []
    if options.smooth is not None or options.awq:
        scale_inputs(loaded, plans, batches, options, context)
    chooses = options.chooses_bits() or bool(times)
    statistics = collect_statistics(loaded.module, plans if chooses else [], batches, options, context)
    tables: dict[str, list[dict[str, Any]]] = {}
    if options.explain:
        tables["blocks"] = block_table(find_blocks(loaded.module, loaded.example, options.blocks))
    files: dict[str, Any] = {}
    if options.chooses_bits():
        allocation = allocate(loaded.module, plans, statistics, batches, options, context, target)
        plans = allocation.plans
        facts |= allocation.facts
        tables["sensitivity"] = allocation.table
        files |= allocation.files
    # training may change what both models keep in common
    float_model = copy_structure(loaded.module) if options.qat == "none" else loaded.clone().module
    ranges = activation_ranges(loaded.module, record, plans, operands, batches, options)
    if times and timed is not None:
        variants = int8_layers(loaded.module, plans, ranges, statistics, options, context.seed)
        damages = latency_budget.measured_damages(loaded.module, variants, batches)
        share = options.targets()[timed].share_of(times[0].total_ms)
        plans, found, tables[timed] = choose_int8(plans, times[0], times[1], damages, share)
        facts |= found
        ranges = ranges_of(find_all_sites(loaded.module, record, plans, operands, options), ranges)
    facts["quantized_layers"] = len(plans)
    statistics.clear()
    rounded: Iterable[tuple[LayerPlan, Spec]]
    if options.needs_moments():
        rounded = round_layers(loaded, plans, batches, options, context, notes)
    else:
        rounded = ((plan, quantize_layer(loaded.module, plan, options, None, context.seed)) for plan in plans)
    for plan, spec in rounded:
        loaded.edits.append(spec.as_edit(plan.name))
        _set_storage(loaded, plan.name, spec, options)
    notes += quantize_activations(loaded, plans, operands, ranges, options)
    if options.scheme_row().activations != "none":
        facts["quantized_product_operands"] = sum(operands.values())
    notes += _rounded_to_nearest(float_model, plans, options)
    halved = sum(plan.spec.bits == 7 and not plan.spec.packed for plan in plans)
    if halved and options.uses_half_range():
        notes.append(
            f"int8 weights of {halved} of {len(plans)} layers use 7-bit codes, which x86 kernels without VNNI cannot "
            "saturate; code_range full: all 8"
        )
    if reconstruction is not None:
        outcomes = reconstruct_quantized(loaded, float_model, reconstruction)
        facts["blocks_reconstructed"] = sum(one.kept for one in outcomes.values())
        tables["reconstructed blocks"] = outcome_table(outcomes)
    if options.qat != "none":
        facts["qat"] = _train_quantized(loaded, float_model, options, context)
    if options.kv_bits is not None:
        facts |= with_quantized_cache(loaded, options.kv_bits)
    if times:
        notes += _compare_latency(loaded, float_model, options, context, facts)
    probe = next(iter(batches)) if batches else loaded.example
    tables["quantized layers"] = layer_table(
        float_model, loaded.module, [plan.name for plan in plans], probe, loaded.storage
    )
    facts |= size_facts(float_model, loaded)
    return StepResult(loaded, facts, notes, tables, files)


def _own_heads(loaded: Loaded, options: QuantizeOptions) -> list[str]:
    """Give heads a weight of their own where they and the embedding are to be quantized, and activations, too.

    Two tables of bytes are no larger than one of 16 bits, and the head's products are integers then; tinylm's take
    13 % of its MACs.
    """
    if options.scheme_row().activations == "none" or options.first_last == "keep":
        return []
    pairs = shared_heads(loaded.module)
    heads = [name for name, table in pairs.items() if len(chosen_names([name, table], options)) == 2]
    for name in heads:
        untie(loaded, name)
    return heads


@phase("calibrate")
def _calibration_batches(options: QuantizeOptions, context: Context) -> Sequence[Inputs]:
    if context.data is None:
        if options.needs_data():
            raise InputError("these quantize options are calibrated on data, and there is none; add --data")
        return []
    samples, batch_size = options.calibration_samples, options.calibration_batch
    return context.calibration_batches(samples, batch_size=batch_size)


@phase("calibrate")
def collect_statistics(
    root: nn.Module, plans: list[LayerPlan], batches: Iterable[Inputs], options: QuantizeOptions, context: Context
) -> InputsInTurn:
    """Statistics of the layers' inputs, a few layers' at a time, where the options need them."""
    names = roundable(root, [plan.name for plan in plans]) if options.needs_moments() else []
    return InputsInTurn(root, names, batches, context.seed)


@phase("train")
def _train_quantized(
    loaded: Loaded, float_model: nn.Module, options: QuantizeOptions, context: Context
) -> dict[str, Any]:
    """Train the quantized model's weights and steps in float, and take the result over."""
    shadow = replace(loaded, module=trainable(loaded.module, float_model), edits=[], storage={})
    objective = None
    if options.qat == "kd":
        teacher = replace(loaded, module=float_model, edits=[], storage={})
        objective = make_distill_objective(teacher, options.recover.labels, context)
    training = options.qat_options()
    judge = objective or partial(plain_objective, training.label_smoothing, loss=context.loss)
    known = {name: tensor.detach().clone() for name, tensor in loaded.module.state_dict().items()}
    before = held_out_loss(loaded.module, judge, context)
    trained = train(shadow, training, context, objective=objective)
    take_over(shadow.module, loaded.module)
    after = held_out_loss(loaded.module, judge, context)
    kept = "trained"
    if after >= before:  # short training at a high rate may lose what rounding by data had won
        loaded.module.load_state_dict(known)
        kept = "post-training"
        said = f"qat: held-out loss {before:.4g} -> {after:.4g}, so the weights stay; train longer, or at a lower lr"
        context.log(said)
    losses = {"held_out_loss_before": before, "held_out_loss_after": after, "weights": kept}
    return {"lr": training.lr, "grad_clip": training.grad_clip, **losses, **trained}


def _set_storage(loaded: Loaded, name: str, spec: Spec, options: QuantizeOptions) -> None:
    """A quantized weight's own codec goes with it; its codes get the one that is asked for."""
    for parameter in spec.parameters:
        prefix = f"{name}.{parameter}" if name else parameter
        loaded.storage.pop(prefix, None)
        if options.coding == "huffman":
            loaded.storage[f"{prefix}_values"] = "huffman"


def layer_times(loaded: Loaded, plans: list[LayerPlan], options: QuantizeOptions, context: Context) -> list[Profile]:
    """Times of the layers in ONNX Runtime, in float and in int8; a poorly calibrated int8 copy is no slower."""
    trial = loaded.clone()
    quantize(trial, options.model_copy(update=_TIMED_WITH), context)
    example = with_batch(loaded.example, context.latency_batch)
    layers = [plan.name for plan in plans]

    def profiled() -> list[Profile]:
        context.log("timing layers in ONNX Runtime")
        return context.runtime_timer().profiles([loaded.module, trial.module], example, layers)

    asked = f"layers in ONNX Runtime {label(str(loaded.module), str(trial.module), layers, context.latency_batch)}"
    return [Profile(*one) for one in context.decisions(asked, profiled)]


def int8_layers(
    root: nn.Module,
    plans: list[LayerPlan],
    ranges: Ranges,
    statistics: InputsInTurn,
    options: QuantizeOptions,
    seed: int,
) -> dict[str, nn.Module]:
    """What takes the place of each layer in int8: weights rounded, and the input quantized where it has a range."""
    levels = activation_levels(options)
    inputs = {site.module: edges for site, edges in ranges.items() if site.side == "input"}
    made = {}
    for plan in plans:
        holder, own = latency_budget.alone(root, plan)
        quantize_layer(holder, own, options, statistics.get(plan.name), seed)
        layer = get_module(holder, own.name)
        if plan.name in inputs:
            convert(layer, Spec(input="static", input_symmetric=levels.symmetric))
            calibration.store_range(layer, "input", inputs[plan.name], levels)
        made[plan.name] = layer
    return made


@phase("measure")
def _compare_latency(
    loaded: Loaded, float_model: nn.Module, options: QuantizeOptions, context: Context, facts: dict[str, Any]
) -> list[str]:
    """Measure what came out beside the float model in ONNX Runtime; a note where the target is missed."""
    example = with_batch(loaded.example, context.latency_batch)
    float_ms, own_ms = context.runtime_timer().latencies_ms([float_model, loaded.module], example)
    share = own_ms / float_ms
    facts |= {"onnxruntime_float_ms": float_ms, "onnxruntime_ms": own_ms, "measured_latency_share": share}
    timed = options.timed_target()
    if timed is None:
        return []
    amount, option = options.targets()[timed], field_of(timed)
    if (share if amount.is_share else own_ms) <= amount.value:
        return []
    got = f"{share:.2f}" if amount.is_share else cost_of(timed).shown(own_ms)
    return [f"{option} {getattr(options, option)} is missed: measured {got} in ONNX Runtime"]


def _rounded_to_nearest(root: nn.Module, plans: list[LayerPlan], options: QuantizeOptions) -> list[str]:
    if not options.needs_moments():
        return []
    names = [plan.name for plan in plans]
    follow = {*roundable(root, names), *(holding_experts(root, names) if options.rounding != "nearest" else [])}
    of_kinds = [
        f"{plan.name}: rounded to nearest, no method here covers its kind" for plan in plans if plan.name not in follow
    ]
    wanted = {"rounding": options.rounding != "nearest", "awq": options.awq}
    return of_kinds + [
        f"{plan.name}: {name} left out, format {plan.spec.format} has no uniform levels"
        for plan in plans
        for name, asked in wanted.items()
        if asked and plan.name in follow and name not in name_format(plan.spec.format).options
    ]
