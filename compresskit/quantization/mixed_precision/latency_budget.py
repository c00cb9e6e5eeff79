"""Which layers compute in int8 and which in float: the least damage to the output under a latency budget."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from compresskit.analysis.sensitivity.divergence import OutputReference
from compresskit.core.costs import field_of, names
from compresskit.core.errors import InputError
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs
from compresskit.training.context import Profile

from ..plan import LayerPlan
from .allocation import Choice, solve

_FLOAT_BITS = 32
_NS = 1_000_000  # nanoseconds a millisecond: whole numbers, as the exact solver wants them


def choose_int8(
    plans: list[LayerPlan], in_float: Profile, in_int8: Profile, damages: dict[str, float], share: float
) -> tuple[list[LayerPlan], dict[str, Any], list[dict[str, Any]]]:
    """The layers to compute in int8 so that the predicted latency is at most a share of the float model's.

    Predicted is the sum of the layers' times and of what else the float model does.

    Args:
        plans: layers that may be quantized; those of fixed bits are, whatever they gain.
        in_float, in_int8: times of the model with all of them in float, and in int8.
        damages: what each layer's int8 costs the output.
        share: of the float model's time.
    Returns:
        the chosen plans; facts; a table with a row a layer.
    Raises:
        InputError: if the budget cannot be met.
    """

    def menu(plan: LayerPlan) -> list[Choice]:
        int8 = Choice(8, round(in_int8.layers.get(plan.name, 0) * _NS), damages[plan.name])
        return [int8] if plan.fixed else [int8, Choice(_FLOAT_BITS, round(in_float.layers.get(plan.name, 0) * _NS), 0)]

    menus = [menu(plan) for plan in plans]
    rest = max(in_float.total_ms - sum(in_float.layers.get(plan.name, 0) for plan in plans), 0)
    budget = int((share * in_float.total_ms - rest) * _NS)
    fastest = rest + sum(min(choice.cost for choice in menu) for menu in menus) / _NS
    if fastest > share * in_float.total_ms:
        asked = field_of(*names("timed", technique="quantize"))
        raise InputError(
            f"{asked} {share:g} is below what int8 layers reach in ONNX Runtime here, "
            f"{fastest / in_float.total_ms:.2f} of the float model's {in_float.total_ms:.3g} ms"
        )
    choices = solve(menus, budget, "ns")
    chosen = [plan for plan, choice in zip(plans, choices, strict=True) if choice.bits == 8]
    predicted = rest + sum(choice.cost for choice in choices) / _NS
    facts = {
        "float_profile_ms": in_float.total_ms,
        "predicted_latency_share": predicted / in_float.total_ms,
        "predicted_damage": sum(choice.damage for choice in choices),
        "float_layers": len(plans) - len(chosen),
    }
    table = [
        {
            "layer": plan.name,
            "float_ms": in_float.layers.get(plan.name),
            "int8_ms": in_int8.layers.get(plan.name),
            "damage": damages[plan.name],
            "chosen": "int8" if choice.bits == 8 else "float",
        }
        for plan, choice in zip(plans, choices, strict=True)
    ]
    return chosen, facts, table


@torch.no_grad()
def measured_damages(root: nn.Module, variants: dict[str, nn.Module], batches: Iterable[Inputs]) -> dict[str, float]:
    """The mean divergence of the model's output when one layer alone is replaced.

    Args:
        root: the float model; restored before returning.
        variants: the replacement of each layer, by name.
        batches: inputs.
    """
    reference = OutputReference(root, batches)
    return {name: reference.with_layer(name, variant) for name, variant in variants.items()}


def alone(root: nn.Module, plan: LayerPlan) -> tuple[nn.Module, LayerPlan]:
    """A copy of one layer in a module of its own, and its plan there."""
    return nn.ModuleDict({"layer": copy.deepcopy(get_module(root, plan.name))}), replace(plan, name="layer")
