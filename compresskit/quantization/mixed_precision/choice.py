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
from ..formats.layer_spec import Spec
from ..formats.layers import from_matrix, to_matrix
from ..formats.packing import packed_bytes
from ..formats.uniform import Grid
from ..options import QuantizeOptions
from ..plan import LayerPlan, with_bits
from ..rounding.nearest import Problem
from ..tables import ROUNDINGS
from . import allocation


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
    grid_of: Callable[[Tensor, Spec], Grid],
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
        grid_of: the grid for a matrix under a spec.
    Raises:
        InputError: if the budget cannot be met.
    """
    left = check_budget(root, plans, options)
    free = [plan for plan in plans if not plan.fixed]
    counts = {plan.name: _weight_count(root, plan) for plan in plans}
    bits_menu = sorted(set(options.candidate_bits))

    def variant(plan: LayerPlan, bits: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: rounded_weights(
            root, with_bits(plan, bits, options), options, statistics.get(plan.name), grid_of, context.seed
        )

    variants = {plan.name: {bits: variant(plan, bits) for bits in bits_menu} for plan in free}
    found = allocation.sensitivities(root, variants, batches, context.log)
    menus = [
        [allocation.Choice(bits, _weight_bytes(counts[plan.name], bits), found[plan.name][bits]) for bits in bits_menu]
        for plan in free
    ]
    chosen = {plan.name: choice.bits for plan, choice in zip(free, allocation.solve(menus, left), strict=True)}
    new_plans = [with_bits(plan, chosen[plan.name], options) if plan.name in chosen else plan for plan in plans]
    used = sum(_weight_bytes(counts[plan.name], plan.spec.bits) for plan in new_plans)
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
        raise InputError("target_bits has nothing to choose: bits_for and first_last fix every layer")
    counts = {plan.name: _weight_count(root, plan) for plan in plans}
    fixed = sum(_weight_bytes(counts[plan.name], plan.spec.bits) for plan in plans if plan.fixed)
    left = int(options.target_bits * sum(counts.values()) / 8) - fixed
    if left < 0:
        raise InputError(
            f"target_bits {options.target_bits:g} is spent by layers of fixed bits; set first_last to same"
        )
    fewest = min(options.candidate_bits)
    least = sum(_weight_bytes(counts[plan.name], fewest) for plan in free)
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
    grid_of: Callable[[Tensor, Spec], Grid],
    seed: int,
) -> dict[str, Tensor]:
    """What a layer's weights become when they are rounded as planned; the layer is left alone."""
    layer, spec = get_module(root, plan.name), plan.spec
    result = {}
    for name in spec.parameters:
        weight = layer._parameters[name].detach()
        matrix = to_matrix(weight.float(), spec.axis)
        grid = grid_of(matrix, spec)
        codes = ROUNDINGS.load(options.rounding)(
            Problem(matrix, grid, statistics.moments.second_moment() if statistics else None, seed)
        )
        result[name] = from_matrix(grid.values(codes), weight.shape, spec.axis)
    return result


def _weight_count(root: nn.Module, plan: LayerPlan) -> int:
    layer = get_module(root, plan.name)
    return sum(layer._parameters[name].numel() for name in plan.spec.parameters)


def _weight_bytes(count: int, bits: int) -> int:
    return packed_bytes(count, bits)


def _plot(found: dict[str, dict[int, float]], context: Context) -> dict[str, Path]:
    if context.folder is None:
        return {}
    path = Path(context.folder) / "sensitivity.svg"
    try:
        allocation.plot(found, path)
    except ImportError:
        return {}
    return {"sensitivity.svg": path}
