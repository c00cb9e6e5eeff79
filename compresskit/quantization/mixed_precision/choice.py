"""Choosing each layer's bits by its sensitivity, under a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compresskit.analysis.measure.work import Work, whole_figure
from compresskit.core.costs import COSTS, cost_of, field_of
from compresskit.core.errors import InputError
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs, Loaded
from compresskit.training.context import Context

from ...core.reporting.phases import phase
from ..calibration.layer_inputs import InputsInTurn, LayerInputs
from ..formats.number_format import Settings
from ..formats.packing import packed_bytes
from ..layers.layer_spec import Spec
from ..layers.quantized_layer import from_matrix, kernel_columns, matrix_shape, name_format, to_matrix
from ..layers.weights import bytes_by_kind
from ..options import QuantizeOptions
from ..plan import LayerPlan, with_bits, with_format
from . import allocation

#: bits of the scheme's integers, or the name of a number format
Candidate = int | str
_ACTIVATION_VALUES = 4  # scale and zero point of what a layer reads and of what it puts out


@dataclass
class Allocation:
    """Plans with their bits chosen, and what the report shows of the choice."""

    plans: list[LayerPlan]
    facts: dict[str, Any]
    table: list[dict[str, Any]]
    files: dict[str, Path]


@phase("choose")
def allocate(
    root: nn.Module,
    plans: list[LayerPlan],
    statistics: InputsInTurn,
    batches: Iterable[Inputs],
    options: QuantizeOptions,
    context: Context,
    target: float | None,
) -> Allocation:
    """Measure what each number of bits costs each layer, and choose the best under the budget.

    Layers whose bits a pattern (or the first/last policy) fixes keep theirs and count against the budget.

    Args:
        root: the float model.
        plans: all layers to quantize.
        statistics: of their inputs, for rounding methods that use them.
        batches: inputs to measure on.
        options: target_bits or a budget, candidate_bits, rounding.
        context: log, seed, folder.
        target: bytes that a budget leaves to the model (`target_bytes`).
    Raises:
        InputError: if the budget cannot be met.
    """
    left = check_budget(root, plans, options, target)
    free = [plan for plan in plans if not plan.fixed]
    counts = {plan.name: _weight_count(root, plan) for plan in plans}
    menu: list[Candidate] = [*sorted(set(options.candidate_bits)), *dict.fromkeys(options.candidate_formats)]

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


def check_budget(root: nn.Module, plans: list[LayerPlan], options: QuantizeOptions, target: float | None) -> int:
    """Bytes that the budget leaves to the layers whose bits are free.

    Args:
        root: the float model.
        plans: all layers to quantize.
        options: target_bits or a budget, candidate_bits.
        target: bytes that a budget leaves to the model (`target_bytes`).
    Raises:
        InputError: if no layer is free, or the fewest candidate bits everywhere take more.
    """
    budget_bytes = _budget(root, plans, options, target)
    ((option, given),) = options.budget().items() if target is not None else (("target_bits", options.target_bits),)
    asked = f"{option} {given if isinstance(given, str) else format(given, 'g')}"
    free = [plan for plan in plans if not plan.fixed]
    if not free:
        raise InputError(f"{option} has nothing to choose: bits_for, format_for and first_last fix every layer")
    left = budget_bytes - sum(_weight_bytes(root, plan, options) for plan in plans if plan.fixed)
    if left < 0:
        raise InputError(f"{asked} is spent by layers of fixed bits; set first_last to same")
    fewest = min(options.candidate_bits)
    least = sum(_weight_bytes(root, with_bits(plan, fewest, options), options) for plan in free)
    if least > left:
        raise InputError(
            f"{asked} leaves {left:,} bytes to {len(free)} layers, which take {least:,} "
            f"at {fewest} bits; raise it, set first_last to same, or give fewer candidate_bits"
        )
    return left


def target_bytes(loaded: Loaded, options: QuantizeOptions) -> float | None:
    """Bytes that a budget leaves to a model; None where there is no budget that chooses bits.

    A cost of the user's own is linear in bytes too, so a budget of it is one of bytes: they pay what has to go.

    Raises:
        InputError: if the cost does not depend on them.
    """
    if not options.chooses_bits() or options.target_bits is not None:
        return None
    ((name, amount),) = options.targets().items()
    whole_bytes = float(sum(bytes_by_kind(loaded.module, loaded.storage).values()))
    if COSTS.builtin(name):
        return amount.of(whole_bytes)
    looks_up = any(isinstance(layer, nn.Embedding | nn.EmbeddingBag) for layer in loaded.module.modules())
    # what is looked up is not read as a whole; counting it as such would promise savings that do not come
    cost = cost_of(name)
    of_a_byte = cost.formula()(Work(stored_bytes=1.0, read_bytes=0.0 if looks_up else 1.0))
    if of_a_byte <= 0:
        raise InputError(f"{field_of(name)}: {cost.noun} does not depend on the bytes of weights, so bits do not help")
    whole = whole_figure(name, loaded)
    return whole_bytes - (whole - amount.of(whole)) / of_a_byte


def _budget(root: nn.Module, plans: list[LayerPlan], options: QuantizeOptions, target: float | None) -> int:
    """Bytes that the codes of all layers may take."""
    if options.target_bits is not None:
        weights = sum(_weight_count(root, plan) for plan in plans)
        return int(options.target_bits * weights / 8)
    if target is None:
        raise TypeError("a budget that chooses bits is one of bytes")
    beside = sum(bytes_by_kind(root).values())
    for plan in plans:
        layer = get_module(root, plan.name)
        for weight in (layer.get_parameter(parameter) for parameter in plan.spec.parameters):
            # where formats are candidates, scales count as codes
            scales = 0 if options.candidate_formats else _most_scale_bytes(weight, plan.spec)
            beside += scales + 4 * _ACTIVATION_VALUES - weight.numel() * weight.element_size()
    return int(target) - beside


def _most_scale_bytes(weight: Tensor, spec: Spec) -> int:
    """Most bytes that scales and zero points of a weight take."""
    rows, columns = matrix_shape(weight.shape, spec.axis)
    groups = -(-columns // spec.group_size) if spec.group_size else 1
    return (rows if spec.granularity != "tensor" else 1) * groups * (4 if spec.symmetric else 5)


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
    weights = {name: layer.get_parameter(name).detach() for name in spec.parameters}
    matrices = {name: to_matrix(weight.float(), spec.axis) for name, weight in weights.items()}
    spec = number_format.fitted(spec, list(matrices.values()))
    settings = Settings(options, statistics.moments.second_moment if statistics else None, seed)
    result = {}
    for name, matrix in matrices.items():
        own = replace(settings, kernel=kernel_columns(weights[name].shape, spec.axis))
        parts = number_format.quantize(matrix, spec, own)
        result[name] = from_matrix(number_format.dequantize(parts, spec), weights[name].shape, spec.axis)
    return result


def _weight_count(root: nn.Module, plan: LayerPlan) -> int:
    layer = get_module(root, plan.name)
    return sum(layer.get_parameter(name).numel() for name in plan.spec.parameters)


def _as_candidate(plan: LayerPlan, candidate: Candidate, options: QuantizeOptions) -> LayerPlan:
    """The plan with these bits, or in that number format."""
    if isinstance(candidate, int):
        return with_bits(plan, candidate, options)
    return with_format(plan, candidate, options)


def _weight_bytes(root: nn.Module, plan: LayerPlan, options: QuantizeOptions) -> int:
    """Bytes of a layer's codes; where formats are candidates, of what they keep beside the codes, too."""
    layer, spec = get_module(root, plan.name), plan.spec
    if not options.candidate_formats:
        return packed_bytes(_weight_count(root, plan), spec.bits)
    shapes = [matrix_shape(layer.get_parameter(name).shape, spec.axis) for name in spec.parameters]
    return sum(name_format(spec.format).bytes(*shape, spec) for shape in shapes)


def _plot(found: dict[str, dict[Candidate, float]], context: Context) -> dict[str, Path]:
    if context.folder is None:
        return {}
    path = Path(context.folder) / "sensitivity.svg"
    try:
        allocation.plot(found, path)
    except InputError:  # no matplotlib
        return {}
    return {"sensitivity.svg": path}
