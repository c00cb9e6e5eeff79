"""Quantizing a model block by block: each block's statistics are those behind the quantized blocks before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compresskit.core.reporting.phases import counted
from compresskit.core.tensors.freed_memory import release_pages, return_freed_memory
from compresskit.core.tensors.modules import bias_of, get_module
from compresskit.core.types import Inputs, Loaded
from compresskit.training.context import Context

from ..analysis.calibration.block_walk.block_step import Step
from ..analysis.calibration.block_walk.blocks import find_blocks
from ..analysis.calibration.block_walk.streaming import walk
from ..analysis.calibration.moments import InputMeans, MomentSums
from ..analysis.calibration.routed import RoutedMoments
from .calibration.layer_inputs import LayerInputs, holding_experts, roundable, routed_moments, sampler
from .formats.integer import grid_for
from .formats.number_format import Parts, Settings
from .formats.saturation import is_depthwise, pair_distance, smallest_scale
from .formats.uniform import Grid
from .layers.conversion import convert
from .layers.layer_spec import Spec
from .layers.quantized_layer import Quantized, kernel_columns, name_format, to_matrix
from .layers.weights import store
from .options import QuantizeOptions
from .plan import LayerPlan
from .rounding.bias_correction import correct_bias
from .transforms import smoothing


def scale_inputs(
    loaded: Loaded, plans: Sequence[LayerPlan], batches: Sequence[Inputs], options: QuantizeOptions, context: Context
) -> None:
    """Apply SmoothQuant or AWQ to every layer it fits, and record the edits; the model computes the same."""
    scalable = set(roundable(loaded.module, [plan.name for plan in plans]))
    fitting = [plan for plan in plans if plan.name in scalable and _takes_scales(plan, options)]
    for step, block_plans in _steps(loaded, fitting, batches, options):
        statistics = _statistics(step, block_plans, context.seed)
        for plan in block_plans:
            if plan.name in statistics:
                loaded.edits.append(_scaled(loaded.module, plan, statistics[plan.name], options).as_edit(plan.name))


def round_layers(
    loaded: Loaded,
    plans: Sequence[LayerPlan],
    batches: Sequence[Inputs],
    options: QuantizeOptions,
    context: Context,
    notes: list[str],
) -> Iterator[tuple[LayerPlan, Spec]]:
    """Round layers and convert them in place, block by block, then those that no block's statistics serve.

    Args:
        loaded: the model.
        plans: the layers.
        batches: calibration inputs.
        options: rounding and ranges.
        context: seed.
        notes: takes a line for each layer that no data reached.
    Yields:
        each layer's plan and the spec that it got.
    """
    left = {plan.name: plan for plan in plans}
    names = [plan.name for plan in plans]
    experts, layers = set(holding_experts(loaded.module, names)), set(roundable(loaded.module, names))
    following = [plan for plan in plans if plan.name in experts | layers]
    done: list[str] = []
    for step, block_plans in _steps(loaded, following, batches, options, reference=options.bias_correction):
        _forget(loaded.module, done)  # their block has run
        return_freed_memory()
        done = [plan.name for plan in block_plans]
        linear = [plan for plan in block_plans if plan.name in layers]
        statistics: dict[str, LayerInputs | RoutedMoments] = {**_statistics(step, linear, context.seed)}
        statistics |= _routed(step, [plan.name for plan in block_plans if plan.name in experts], context.seed)
        means = _float_means(loaded.module, step, linear, context.seed) if options.bias_correction else {}
        for plan in block_plans:
            counted(len(plans) - len(left), len(plans), f"{plan.name} to {plan.spec.bits} bits")
            own = statistics.get(plan.name)
            if own is None:
                notes.append(f"{plan.name}: rounded to nearest, the calibration data never call it")
            yield plan, quantize_layer(loaded.module, plan, options, own, context.seed, means.get(plan.name))
            del left[plan.name]
            return_freed_memory()
    _forget(loaded.module, done)
    for number, plan in enumerate(left.values(), len(plans) - len(left)):
        counted(number, len(plans), f"{plan.name} to {plan.spec.bits} bits")
        yield plan, quantize_layer(loaded.module, plan, options, None, context.seed)


def _forget(root: nn.Module, names: Iterable[str]) -> None:
    """Let layers go of weights that they keep dequantized."""
    for name in names:
        layer = get_module(root, name)
        if isinstance(layer, Quantized):
            layer.forget()


def _steps(
    loaded: Loaded,
    plans: Sequence[LayerPlan],
    batches: Sequence[Inputs],
    options: QuantizeOptions,
    *,
    reference: bool = False,
) -> Iterator[tuple[Step, list[LayerPlan]]]:
    """The blocks that hold planned layers, with the plans of those."""
    names = {plan.name for plan in plans}
    blocks = find_blocks(loaded.module, loaded.example, options.blocks)
    wanted = [number for number, block in enumerate(blocks) if names & set(block.layers)]
    if not wanted:
        return
    others = loaded.module if reference else None
    for parameter in loaded.module.parameters():  # finding blocks has read them all
        release_pages(parameter.detach())
    for step in walk(loaded.module, blocks[: wanted[-1] + 1], batches, reference=others):
        block_plans = [plan for plan in plans if plan.name in step.block.layers]
        if block_plans:
            yield step, block_plans


def _statistics(step: Step, plans: Iterable[LayerPlan], seed: int) -> dict[str, LayerInputs]:
    return step.collect({plan.name: LayerInputs.of_seed(seed) for plan in plans})


def _routed(step: Step, names: Iterable[str], seed: int) -> dict[str, RoutedMoments]:
    found = {name: routed_moments(seed) for name in names}
    if found:
        step.watch({name: one.look for name, one in found.items()})
    return found


def _float_means(root: nn.Module, step: Step, plans: Iterable[LayerPlan], seed: int) -> dict[str, Tensor]:
    """What layers with a bias read on average in the float model, (groups, columns)."""
    names = [plan.name for plan in plans if bias_of(get_module(root, plan.name)) is not None]
    found = step.collect_reference(root, {name: InputMeans(sampler(seed)) for name in names})
    return {name: one.mean() for name, one in found.items()}


def _takes_scales(plan: LayerPlan, options: QuantizeOptions) -> bool:
    if options.smooth is not None:
        return plan.spec.input != "none"
    return "awq" in name_format(plan.spec.format).options


def _scaled(root: nn.Module, plan: LayerPlan, statistics: LayerInputs, options: QuantizeOptions) -> Spec:
    layer = get_module(root, plan.name)
    if options.smooth is not None:
        return smoothing.smooth(layer, statistics, options.smooth)

    def grid_of(matrix: Tensor) -> Grid:
        return grid_for(matrix, plan.spec, options)

    return smoothing.move_to_weights(layer, smoothing.search_factors(layer, statistics, grid_of, plan.spec.axis))


def quantize_layer(
    root: nn.Module,
    plan: LayerPlan,
    options: QuantizeOptions,
    statistics: LayerInputs | RoutedMoments | None,
    seed: int,
    float_mean: Tensor | None = None,
) -> Spec:
    """Round one layer's weights and convert the layer in place; static activations are left for later.

    Args:
        root: the model.
        plan: the layer, and how to quantize it.
        options: rounding and ranges.
        statistics: of the layer's inputs, where a method needs them.
        seed: for methods that draw anything.
        float_mean: mean of its input rows in the float model; None where they are those of the statistics.
    Returns:
        the spec that the layer got.
    """
    layer = get_module(root, plan.name)
    dynamic = plan.spec.input == "dynamic"
    spec = replace(plan.spec, input="dynamic" if dynamic else "none", input_bits=plan.spec.input_bits if dynamic else 8)
    weights = [layer.get_parameter(name).detach() for name in spec.parameters]
    matrices = {name: to_matrix(one.float(), spec.axis) for name, one in zip(spec.parameters, weights, strict=True)}
    number_format = name_format(spec.format)
    spec = number_format.fitted(spec, list(matrices.values()))
    quantized = convert(layer, spec)
    for weight in weights:
        release_pages(weight)
    if isinstance(statistics, RoutedMoments):
        for name, matrix in matrices.items():
            store(quantized, name, _experts_quantized(matrix, spec, options, statistics.sums.get(name, []), seed))
        return spec
    settings = Settings(options, statistics.moments.second_moment if statistics else None, seed)
    distance = pair_distance(layer) if options.spreads_pairs() and spec.bits == 8 and not is_depthwise(layer) else None
    for name, matrix in matrices.items():
        least = smallest_scale(matrix, distance) if distance is not None else None
        kernel = kernel_columns(quantized.parameter_shapes[name], spec.axis)
        own = replace(settings, smallest_scale=least, kernel=kernel)
        store(quantized, name, number_format.quantize(matrix, spec, own))
    if options.bias_correction and statistics and bias_of(layer) is not None:
        with torch.no_grad():
            rounded = to_matrix(quantized.dequantized("weight"), spec.axis)
        mean = statistics.moments.mean()
        correct_bias(layer, rounded, matrices["weight"], mean, mean if float_mean is None else float_mean)
    return spec


def _experts_quantized(
    matrix: Tensor, spec: Spec, options: QuantizeOptions, moments: Sequence[MomentSums], seed: int
) -> Parts:
    """The parts of a stack of experts' matrices, each rounded by what its own tokens show; nearest where it has none.

    Args:
        matrix: of all experts, one after the other, (experts * rows, columns).
        spec: of the layer.
        options: rounding and ranges.
        moments: one an expert.
        seed: for methods that draw anything.
    """
    number_format = name_format(spec.format)
    # what all rows have in common cannot be found expert by expert
    if not moments or spec.granularity == "tensor" or "rounding" not in number_format.options:
        return number_format.quantize(matrix, spec, Settings(options, None, seed))
    found = [
        number_format.quantize(part, spec, Settings(options, sums.second_moment if sums.count else None, seed))
        for part, sums in zip(matrix.chunk(len(moments)), moments, strict=True)
    ]
    return {name: torch.cat([parts[name] for parts in found]) for name in found[0]}
