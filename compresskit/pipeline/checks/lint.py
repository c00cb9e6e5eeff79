"""Warnings about recipes whose steps undo each other. Read from the steps alone; nothing is loaded."""

from __future__ import annotations

from ..recipe import Recipe

_QUANTIZED = "quantize"
#: (earlier technique, later technique) -> why that order loses something
_ORDER = {
    ("quantize", "prune"): "pruning changes weights that were already rounded; prune before quantizing",
    ("quantize", "decompose"): "quantized layers have no float weight left to factor; decompose before quantizing",
    ("quantize", "train"): "plain training does not reach quantized weights; train before quantizing",
    ("quantize", "distill"): "distillation does not reach quantized weights; distill before quantizing",
}


def lint(recipe: Recipe) -> list[str]:
    """One line for each pair of steps in an order that loses something, and for sparsity that a later step drops."""
    warnings = []
    steps = recipe.steps
    for later_number, later in enumerate(steps):
        for earlier_number, earlier in enumerate(steps[:later_number]):
            reason = _ORDER.get((earlier.technique, later.technique))
            if reason:
                warnings.append(
                    f"steps.{later_number} ({later.technique}) after steps.{earlier_number} ({earlier.technique}): "
                    f"{reason}"
                )
            if _makes_sparse(earlier) and later.technique == "decompose":
                warnings.append(
                    f"steps.{later_number} (decompose) after steps.{earlier_number} (sparse prune): factors are dense, "
                    "the zeros are lost; decompose first"
                )
    return warnings


def lint_quantized(recipe: Recipe) -> list[str]:
    """The same for steps on a model that is quantized as it comes."""
    return [
        f"steps.{number} ({step.technique}): the model is quantized already: {_ORDER[_QUANTIZED, step.technique]}"
        for number, step in enumerate(recipe.steps)
        if (_QUANTIZED, step.technique) in _ORDER
    ]


def _makes_sparse(step) -> bool:
    return step.technique == "prune" and getattr(step.options, "granularity", "channel") not in (
        "channel",
        "block",
        "head",
    )
