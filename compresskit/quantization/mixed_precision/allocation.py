"""Bits for every layer: measured sensitivity, and the best choice under a budget, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from compresskit.analysis.allocation.allocate import allocate
from compresskit.analysis.sensitivity.divergence import OutputReference
from compresskit.core.errors import InputError
from compresskit.core.reporting.figures import new_figure
from compresskit.core.types import Inputs


class Choice(NamedTuple):
    """One way to store or compute one layer: what it takes of the budget, and what it costs the output."""

    bits: int | str  # or the name of a number format
    cost: int
    damage: float


def solve(menus: list[list[Choice]], budget: int, unit: str = "bytes") -> list[Choice]:
    """One choice a layer with the smallest sum of damage whose costs fit the budget.

    Args:
        menus: for each layer its choices.
        budget: largest sum of costs.
        unit: of costs, for the message.
    Returns:
        a choice for each layer.
    Raises:
        InputError: if even the smallest choices do not fit.
    """
    costs = [[choice.cost for choice in menu] for menu in menus]
    picks = allocate(costs, [[choice.damage for choice in menu] for menu in menus], budget)
    if picks is None:
        smallest = sum(map(min, costs))
        raise InputError(f"the budget of {budget} {unit} is below the smallest possible, {smallest} {unit}")
    return [menu[pick] for menu, pick in zip(menus, picks, strict=True)]


def sensitivities(
    root: nn.Module,
    variants: dict[str, dict[int | str, Callable[[], dict[str, Tensor]]]],
    batches: Iterable[Inputs],
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[int | str, float]]:
    """How far the model's output moves when one layer alone is quantized.

    Args:
        root: the float model; restored before returning.
        variants: layer -> bits, or a number format's name -> function giving its parameters after rounding, by name.
        batches: re-iterable inputs.
        log: told of every layer.
    Returns:
        layer -> bits -> mean divergence of the outputs from the float model's.
    """
    reference = OutputReference(root, batches)
    found: dict[str, dict[int | str, float]] = {}
    for name, by_bits in variants.items():
        found[name] = {bits: reference.with_weights(name, rounded) for bits, rounded in by_bits.items()}
        log(
            f"sensitivity of {name}: "
            + ", ".join(f"{_label(bits)} {damage:.3g}" for bits, damage in found[name].items())
        )
    return found


def _label(bits: int | str) -> str:
    return bits if isinstance(bits, str) else f"{bits} bits"


def sensitivity_table(found: dict[str, dict[int | str, float]], chosen: dict[str, int | str]) -> list[dict[str, Any]]:
    """One row a layer: the damage of each number of bits, and the bits it got."""
    return [
        {
            "layer": name,
            **{f"damage_at_{bits}": damage for bits, damage in by_bits.items()},
            "chosen_bits": chosen.get(name),
        }
        for name, by_bits in found.items()
    ]


def plot(found: dict[str, dict[int | str, float]], path: Any) -> None:
    """Draw sensitivity by layer, one line for each number of bits, on a logarithmic scale.

    Raises:
        InputError: if matplotlib is not installed.
    """
    figure, axes = new_figure(1, (max(6, 0.25 * len(found)), 4), "tight")
    names = list(found)
    for bits in dict.fromkeys(bits for by_bits in found.values() for bits in by_bits):
        axes.plot(names, [found[name].get(bits, float("nan")) for name in names], marker=".", label=_label(bits))
    axes.set_yscale("log")
    axes.set_ylabel("divergence of the output per sample")
    axes.tick_params(axis="x", rotation=90, labelsize=6)
    axes.legend()
    figure.savefig(path)
