"""What a search leaves: tables, the winning recipe, plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..core.types import Context
from .problem import Choice, Problem


def policy_rows(problem: Problem, choice: Choice) -> list[dict[str, Any]]:
    """One row a place: what the choice keeps."""
    return [
        {"place": place.name, "keeps": place.labels[level], "share": round(place.shares[level], 4)}
        for place, level in zip(problem.places, choice, strict=True)
    ]


def pareto_rows(problem: Problem) -> list[dict[str, Any]]:
    """The trials that no other beats, cheapest first."""
    return [
        {"trial": trial.number, "score": round(trial.score, 5), **{k: round(v, 5) for k, v in trial.costs.items()}}
        for trial in problem.pareto()
    ]


def curve(problem: Problem) -> list[dict[str, float]]:
    """Best score within the budget so far, after each trial."""
    rows, best = [], None
    for trial in problem.history:
        if problem.fits(trial.choice) and (best is None or trial.score > best):
            best = trial.score
        rows.append({"trial": trial.number, "seconds": trial.seconds, "score": trial.score, "best": best})
    return rows


def recipe(step: dict[str, Any], context: Context) -> dict[str, Any]:
    """A recipe that makes the winning choice: what the search was run on, with this step in its place."""
    given = dict(context.recipe or {})
    steps = given.pop("steps", [])
    place = next((number for number, one in enumerate(steps) if "search" in one), len(steps))
    given.pop("output", None)
    return {**given, "steps": [*steps[:place], step]}


def write_recipe(step: dict[str, Any], context: Context, folder: Path) -> Path:
    """Write the winning recipe; returns its path."""
    path = Path(folder) / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "# what the search found; replay it with: compresskit run recipe.yaml -o OUT\n"
        + yaml.safe_dump(recipe(step, context), sort_keys=False)
    )
    return path
