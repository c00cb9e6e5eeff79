"""Choosing each layer's bits by its sensitivity, under a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs
from compresskit.training.context import Context

from ..calibration.layer_inputs import LayerInputs
from ..formats.layers import from_matrix, matrix_shape, name_format, to_matrix
from ..formats.number_format import Settings
from ..formats.packing import packed_bytes
from ..options import QuantizeOptions
from ..plan import LayerPlan, with_bits, with_format
from . import allocation

#: bits of the scheme's integers, or the name of a number format
Candidate = int | str


@dataclass
class Allocation:
    """Plans with their bits chosen, and what the report shows of the choice."""

    plans: list[LayerPlan]
    facts: dict[str, Any]
    table: list[dict[str, Any]]
    files: dict[str, Path]


def allocate(
    root: nn.Module,
    plans: list[LayerPlan],
    statistics: dict[str, LayerInputs],
    batches: Iterable[Inputs],
    options: QuantizeOptions,
    context: Context,
) -> Allocation:
    """Measure what each number of bits costs each layer, and choose the best under the budget.

    Layers whose bits a pattern (or the first/last policy) fixes keep theirs and count against the budget.

    Args:
        root: the float model.
        plans: all layers to quantize.
        statistics: of their inputs, for rounding methods that use them.
        batches: inputs to measure on.
        options: target_bits, candidate_bits, rounding.
        context: log, seed, folder.
    Raises:
        InputError: if the budget cannot be met.
    """
    left = check_budget(root, plans, options)
    free = [plan for plan in plans if not plan.fixed]
    counts = {plan.name: _weight_count(root, plan) for plan in plans}
    menu = [*sorted(set(options.candidate_bits)), *dict.fromkeys(options.candidate_formats)]

    def variant(plan: LayerPlan, candidate: Candidate) -> Callable[[], dict[str, Tensor]]:
        return lambda: rounded_weights(
            root, _as_candidate(plan, candidate, options), options, statistics.get(plan.name), context.seed
        )

    variants = {plan.name: {candidate: variant(plan, candidate) for candidate in menu} for plan in free}
    found = allocation.sensitivities(root, variants, batches, context.log)

    def choices(plan: LayerPlan) -> list[allocation.Choice]:
        sizes = {one: _weight_bytes(root, _as_candidate(plan, one, options), options) for one in menu}
        return [allocation.Choice(one, sizes[one], found[plan.name][one]) for one in menu]

    solved = allocation.solve([choices(plan) for plan in free], left)
    chosen = {plan.name: choice.bits for plan, choice in zip(free, solved, strict=True)}
    new_plans = [_as_candidate(plan, chosen[plan.name], options) if plan.name in chosen else plan for plan in plans]
    used = sum(_weight_bytes(root, plan, options) for plan in new_plans)
    facts = {
        "average_bits": round(8 * used / sum(counts.values()), 4),
        "predicted_damage": sum(found[n][b] for n, b in chosen.items()),
    }
    return Allocation(new_plans, facts, allocation.sensitivity_table(found, chosen), _plot(found, context))


def check_budget(root: nn.Module, plans: list[LayerPlan], options: QuantizeOptions) -> int:
    """Bytes that target_bits leaves to the layers whose bits are free.

    Raises:
        InputError: if no layer is free, or the fewest candidate bits everywhere take more.
    """
    free = [plan for plan in plans if not plan.fixed]
    if not free:
        raise InputError("target_bits has nothing to choose: bits_for, format_for and first_last fix every layer")
    counts = {plan.name: _weight_count(root, plan) for plan in plans}
    fixed = sum(_weight_bytes(root, plan, options) for plan in plans if plan.fixed)
    left = int(options.target_bits * sum(counts.values()) / 8) - fixed
    if left < 0:
        raise InputError(
            f"target_bits {options.target_bits:g} is spent by layers of fixed bits; set first_last to same"
        )
    fewest = min(options.candidate_bits)
    least = sum(_weight_bytes(root, with_bits(plan, fewest, options), options) for plan in free)
    if least > left:
        raise InputError(
            f"target_bits {options.target_bits:g} leaves {left:,} bytes to {len(free)} layers, which take {least:,} "
            f"at {fewest} bits; raise it, set first_last to same, or give fewer candidate_bits"
        )
    return left


def rounded_weights(
    root: nn.Module,
    plan: LayerPlan,
    options: QuantizeOptions,
    statistics: LayerInputs | None,
    seed: int,
) -> dict[str, Tensor]:
    """What a layer's weights become when they are rounded as planned; the layer is left alone."""
    layer, spec = get_module(root, plan.name), plan.spec
    number_format = name_format(spec.format)
    weights = {name: layer._parameters[name].detach() for name in spec.parameters}
    matrices = {name: to_matrix(weight.float(), spec.axis) for name, weight in weights.items()}
    spec = number_format.fitted(spec, list(matrices.values()))
    settings = Settings(options, statistics.moments.second_moment if statistics else None, seed)
    result = {}
    for name, matrix in matrices.items():
        parts = number_format.quantize(matrix, spec, settings)
        result[name] = from_matrix(number_format.dequantize(parts, spec), weights[name].shape, spec.axis)
    return result


def _weight_count(root: nn.Module, plan: LayerPlan) -> int:
    layer = get_module(root, plan.name)
    return sum(layer._parameters[name].numel() for name in plan.spec.parameters)


def _as_candidate(plan: LayerPlan, candidate: Candidate, options: QuantizeOptions) -> LayerPlan:
    """The plan with these bits, or in that number format."""
    return (with_bits if isinstance(candidate, int) else with_format)(plan, candidate, options)


def _weight_bytes(root: nn.Module, plan: LayerPlan, options: QuantizeOptions) -> int:
    """Bytes of a layer's codes; where formats are candidates, of what they keep beside the codes, too."""
    layer, spec = get_module(root, plan.name), plan.spec
    if not options.candidate_formats:
        return packed_bytes(_weight_count(root, plan), spec.bits)
    shapes = [matrix_shape(layer._parameters[name].shape, spec.axis) for name in spec.parameters]
    return sum(name_format(spec.format).bytes(*shape, spec) for shape in shapes)


def _plot(found: dict[str, dict[int, float]], context: Context) -> dict[str, Path]:
    if context.folder is None:
        return {}
    path = Path(context.folder) / "sensitivity.svg"
    try:
        allocation.plot(found, path)
    except ImportError:
        return {}
    return {"sensitivity.svg": path}
