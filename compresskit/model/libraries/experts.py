"""Mixtures of experts as transformers 5 holds them: each projection of all experts is one stack of matrices.

A stack is (experts, out, in), or (experts, in, out) where the module says `is_transposed`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

_UP_PROJECTIONS, _DOWN_PROJECTION = ("gate_up_proj", "up_proj"), "down_proj"


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds stacks, and is called with (states, expert numbers, expert weights) of every token."""
    return (
        hasattr(module, "is_transposed")
        and hasattr(module, "has_gate")
        and _is_stack(module, _DOWN_PROJECTION)
        and any(_is_stack(module, name) for name in _UP_PROJECTIONS)
    )


def _is_stack(module: nn.Module, name: str) -> bool:
    return isinstance(found := getattr(module, name, None), Tensor) and found.dim() == 3


def projections(module: nn.Module) -> tuple[str, str]:
    """Names of the stacks of experts that lead into them and out of them."""
    return next(name for name in _UP_PROJECTIONS if _is_stack(module, name)), _DOWN_PROJECTION


def matrix_of(module: nn.Module, name: str, expert: int) -> Tensor:
    """One expert's matrix of a stack, (out, in)."""
    matrix = getattr(module, name)[expert]
    return matrix.T if module.is_transposed else matrix


def inner_states(module: Any, expert: int, states: Tensor) -> Tensor:
    """What an expert's last projection reads for states that are routed to it, (tokens, inner)."""
    up, _ = projections(module)
    bias = getattr(module, f"{up}_bias")[expert] if getattr(module, "has_bias", False) else None
    found = F.linear(states, matrix_of(module, up, expert), bias)
    return module._apply_gate(found) if module.has_gate else module.act_fn(found)
