"""What a search leaves: tables, the winning recipe, plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..core.errors import InputError
from ..core.reporting.figures import new_figure
from ..training.context import Context
from .problem.search_space import Problem
from .problem.subject import Choice


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
    best: float | None = None
    rows: list[dict[str, Any]] = []
    for trial in problem.history:
        if problem.fits(trial.choice) and (best is None or trial.score > best):
            best = trial.score
        rows.append({"trial": trial.number, "seconds": trial.seconds, "score": trial.score, "best": best})
    return rows


def recipe(found: list[dict[str, Any]], context: Context) -> dict[str, Any]:
    """A recipe that makes the winning choice: what the search was run on, with these steps in its place."""
    given = dict(context.recipe or {})
    steps = given.pop("steps", [])
    place = next((number for number, one in enumerate(steps) if "search" in one), len(steps))
    given.pop("output", None)
    return {**given, "steps": [*steps[:place], *found]}


def write_recipe(found: list[dict[str, Any]], context: Context, folder: Path) -> Path:
    """Write the winning recipe; returns its path."""
    path = Path(folder) / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "# what the search found; replay it with: compresskit run recipe.yaml -o OUT\n"
        + yaml.safe_dump(recipe(found, context), sort_keys=False)
    )
    return path


def plots(problem: Problem, choice: Choice, folder: Path, notes: list[str]) -> dict[str, Path]:
    """Draw the learning curve, all trials with their Pareto front, and the winning policy; needs matplotlib."""
    height = max(4.0, 0.16 * len(problem.places) + 1.5)
    try:
        figure, (learning, trials, policy) = new_figure(3, (17, height))
    except InputError as error:
        notes.append(f"no plots: {error}")
        return {}
    path = Path(folder) / "search.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = curve(problem)
    learning.plot([row["trial"] for row in rows], [row["score"] for row in rows], ".", color="grey", label="trial")
    best = [(row["trial"], row["best"]) for row in rows if row["best"] is not None]
    learning.step([x for x, _ in best], [y for _, y in best], where="post", label="best within the budget")
    learning.set(xlabel="trial", ylabel="held-out score", title="learning curve")
    learning.legend()
    loads = {trial.number: problem.load(trial.choice) for trial in problem.history}
    trials.plot([loads[t.number] for t in problem.history], [t.score for t in problem.history], ".", color="grey")
    front = problem.pareto()
    trials.step([loads[t.number] for t in front], [t.score for t in front], where="post")
    trials.axvline(1.0, linestyle=":", color="black")
    trials.set(xlabel="cost relative to the budget", ylabel="held-out score", title="all trials and their Pareto front")
    shares = [place.shares[level] for place, level in zip(problem.places, choice, strict=True)]
    policy.barh(range(len(shares)), shares)
    policy.set_yticks(range(len(shares)), [place.name for place in problem.places], fontsize=6)
    policy.invert_yaxis()
    policy.set(xlabel="share kept", title="winning policy", xlim=(0, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return {"search.png": path}
