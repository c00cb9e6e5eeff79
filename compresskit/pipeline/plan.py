"""Dry runs: a recipe validated against the real model and data, cuts tried on a copy, nothing trained or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..analysis.measure.work import figures_of
from ..core.costs import cost_of, names
from ..core.reporting.report import plain, print_json, rows_table
from ..core.types import Loaded, to_device
from ..model.example_inputs import with_batch
from ..training.context import Context
from .checks.lint import lint
from .checks.preflight import checked_context
from .checks.sanity import sanity_warnings
from .estimating import estimated, said
from .recipe import Recipe, Step
from .steps import follow, model_after
from .techniques import STEPS


def make_plan(
    recipe: Recipe, log: Callable[[str], None] = lambda line: None, *, output: Path | None = None
) -> dict[str, Any]:
    """The plan of a recipe: one row a step with predicted parameters and MACs.

    Cuts run on a copy of the model as it is now, without training, so figures behind a training step are predictions.

    Args:
        recipe: what would be run.
        log: gets a line for each thing that was found out.
        output: where the result would go, if that is said; whether it can is checked.
    Raises:
        InputError: on anything that the run itself would refuse at its start.
    """
    context = checked_context(recipe, log, output=output)
    estimates = estimated(recipe, context)
    rows = [
        {
            "step": "original",
            **_figures(context.original, context.device),
            "options": "",
            "how": "measured",
            "seconds": None,
        }
    ]
    known = True

    def take(number: int, step: Step, current: Loaded, context: Context) -> Loaded:
        nonlocal known
        technique = STEPS[step.technique]
        if number == 0:
            current = current.clone()  # cuts are tried on a copy
        if technique.preview == "run" and known:
            options = step.options.without_training()
            current = technique.function()(current, options, replace(context, recover=lambda loaded: {})).loaded
        elif step.technique == "distill" and known:
            current = model_after(step, current, context) or current
        known = known and technique.preview != "unknown"
        figures = _figures(current, context.device) if known else dict.fromkeys(_figures_shown())
        given = ", ".join(f"{key}={value}" for key, value in step.options.model_dump(exclude_unset=True).items())
        rows.append(
            {
                "step": step.technique,
                **figures,
                "options": given,
                "how": "predicted" if known else "not predicted",
                "seconds": estimates[number]["seconds"],
            }  # fmt: skip
        )
        return current

    follow(recipe, context, take)
    return {
        "model": recipe.options.model,
        "data": recipe.options.data,
        "output": str(output) if output else recipe.options.output,
        "plan": rows,
        "efforts": estimates,
        "warnings": [*lint(recipe), *sanity_warnings(recipe, context)],
        "splits": {split: context.data.known_size(split) for split in ("train", "val", "test")}
        if context.data
        else None,
    }


def _figures(loaded: Loaded, device: torch.device) -> dict[str, float | None]:
    example = to_device(with_batch(loaded.example, 1), device)
    found = figures_of(loaded, example)
    return {figure: found[figure] for figure in _figures_shown()}


def _figures_shown() -> list[str]:
    """Keys of the figures that are predicted: counts that rounding weights leaves as they are."""
    rows = (cost_of(name) for name in names("exact") if "quantize" not in cost_of(name).techniques)
    return [cost.figure for cost in rows if not cost.modelled]


def show_plan(plan: dict[str, Any], console: Console, as_json: bool) -> None:
    """Print a plan: a table on stderr, or JSON on stdout."""
    if as_json:
        print_json(plan)
        return
    data = f" on {plan['data']}" if plan["data"] else ", no data"
    console.print(rows_table(f"plan: {plan['model']}{data}", plan["plan"], console.width))
    for record in plan["efforts"]:
        console.print(plain(said(record)), highlight=False, soft_wrap=True)
    if plan["splits"]:
        console.print(
            ", ".join(
                f"{name}: {'a stream' if count is None else f'{count:,} examples'}"
                for name, count in plan["splits"].items()
            ),
            highlight=False,
        )
    for warning in plan["warnings"]:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
    console.print("nothing was written", highlight=False)
