"""Technique `architecture`: a policy searches for a network, the model teaches it, and a recipe makes it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...core.errors import GuardMissed
from ...core.types import Loaded
from ...training.context import Context, StepResult
from ..options import SearchOptions
from ..tables import ARCHITECTURES
from . import report
from .session import Child, Session
from .space import ChainSpace
from .student import build_student, measured_costs


def search_architecture(loaded: Loaded, options: SearchOptions, context: Context) -> StepResult:
    """Search for a network within the budget.

    Args:
        loaded: the teacher; stays untouched.
        options: policy, budget, trials, brief trainings.
        context: data, seed, log; in its folder a killed search finds its last episode.
    Returns:
        the best network with its weights from the search, all candidates, and `recipe.yaml` that trains it again.
    Raises:
        GuardMissed: if no network within the budget was found.
    """
    session = Session(loaded, measured_costs(loaded), options, context)
    if options.network is not None:
        return _given(session)
    policy = ARCHITECTURES.load(options.policy)
    policy(session)
    child, winner = session.winner()
    if options.finetune_finalists:
        child, winner = trained_anew(session)
    result = StepResult(winner, _facts(session, child), list(session.notes))
    result.tables["network"] = report.network_rows(child.network)
    result.notes.append(
        f"{session.trained()} networks were trained for {options.child_steps} steps each; the best "
        f"scored {child.score:.4f} on held-out training images, the model itself {session.teacher_score:.4f}"
    )
    if context.folder is not None:
        result.files |= report.plots(session, child, result.notes)
        result.files["recipe.yaml"] = report.write_recipe(session, child, winner)
    return result


def trained_anew(session: Session) -> tuple[Child, Loaded]:
    """Train the best few networks again, all alike and longer, and return the one with the best held-out score.

    In a search networks inherit weights of unlike age, and are trained too briefly to tell good ones apart.
    """
    options, seed = session.options, session.context.seed
    rows = []
    for child in session.finalists(options.finetune_finalists):
        if options.policy == "n2n":
            model = build_student(session.teacher, child.network, session.context)
        else:
            model = ChainSpace(session.teacher).load(child.network, seed)
        objective = session.regression if options.policy == "n2n" else None
        score = session.score_after_training(model, steps=options.finetune_steps, objective=objective)
        again = replace(child, score=score)
        session.context.log(f"network {child.number}: score {again.score:.4f} after {options.finetune_steps} steps")
        rows.append((again.score, child.score, -child.number, again, model))
    session.notes.append(
        f"{len(rows)} finalists were trained anew for {options.finetune_steps} steps; scores are after that"
    )
    return max(rows, key=lambda row: row[:3])[3:]


def _facts(session: Session, winner: Any) -> dict[str, Any]:
    return {
        "policy": session.options.policy,
        "trials": session.trained(),
        "proposals": len(session.children),
        "search_seconds": round(session.elapsed, 3),
        "teacher_score": session.teacher_score,
        "winner_score": winner.score,
        "winner_reward": winner.reward,
        **{f"{name}_kept": share for name, share in winner.costs.items()},
        "budget": session.options.budget(),
        "network": winner.network,
        "curve": report.curve(session),
        "pareto": report.pareto_rows(session),
    }


def _given(session: Session) -> StepResult:
    """The student that the options name: built, and trained as in a search."""
    options = session.options
    student = build_student(session.teacher, options.network, session.context)
    costs = measured_costs(student)
    if not session.fits(costs):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in session.shares(costs).items())
        raise GuardMissed(f"network: it keeps {shares}, which exceeds the budget; allow more")
    steps = options.finetune_steps if options.finetune_finalists else None
    session.train_briefly(student, steps=steps, objective=session.regression)
    child = session.record(options.network, costs, 0.0, score=session.rate(student.module), trained=student)
    facts = {"network": options.network, "winner_score": child.score, "teacher_score": session.teacher_score}
    facts |= {f"{name}_kept": share for name, share in child.costs.items()}
    return StepResult(student, facts, tables={"network": report.network_rows(options.network)})
