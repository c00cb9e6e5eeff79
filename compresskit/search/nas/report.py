"""What an architecture search leaves: tables, plots, and a recipe that makes the network again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ...core.errors import InputError
from ...core.reporting.figures import new_figure
from ...core.types import Loaded
from .options import BATCH
from .session import Child, Session

#: keys of a recipe that belong to the model it names
_OF_THE_MODEL = ("model", "weights", "model_arg", "input", "source", "output")


def network_rows(network: Any) -> list[dict[str, Any]]:
    """One row for each layer, or for each thing that N2N takes away."""
    if isinstance(network, dict) and "removed" in network:
        rows = [{"layer": name, "stays": "no"} for name in network["removed"]]
        return rows + [{"layer": name, "stays": f"{count} channels"} for name, count in network["kept"].items()]
    return [
        {"layer": number, "operation": layer["op"], "channels": layer.get("out", ""), "kernel": layer.get("kernel", "")}
        for number, layer in enumerate(network)
    ]


def curve(session: Session) -> list[dict[str, Any]]:
    """Each proposal with the best score within the budget up to it; infeasible ones have no score."""
    rows, best = [], None
    for child in session.children:
        if child.score is not None and child.fits and (best is None or child.score > best):
            best = child.score
        rows.append({
            "trial": child.number, "seconds": child.seconds, "score": child.score, "reward": child.reward, "best": best,
        })  # fmt: skip
    return rows


def pareto(session: Session) -> list[Child]:
    """The trained children that no other beats in both score and load, cheapest first."""
    scored = [child for child in session.children if child.score is not None]
    front: list[Child] = []
    for child in sorted(scored, key=lambda c: (_load(session, c), -(c.score or 0.0), c.number)):
        if not front or (child.score or 0.0) > (front[-1].score or 0.0):
            front.append(child)
    return front


def _load(session: Session, child: Child) -> float:
    return max(child.costs[name] / (limit / session.whole[name]) for name, limit in session.limits.items())


def pareto_rows(session: Session) -> list[dict[str, Any]]:
    """The Pareto front as a table."""
    return [
        {"trial": child.number, "score": round(child.score or 0.0, 5)}
        | {name: round(cost, 5) for name, cost in child.costs.items()}
        for child in pareto(session)
    ]


# -- the recipe ------------------------------------------------------------------------------------------------------


def write_recipe(session: Session, child: Child, winner: Loaded) -> Path:
    """Write the recipe that makes the winner again; returns its path.

    A student of n2n is made and trained exactly as in the search. A chain is trained anew from random weights, because
    the weights it inherited from other networks in the search are not to be had by training.
    """
    recipe, says = _n2n_recipe(session, child) if "removed" in child.network else _chain_recipe(session, winner)
    path = session.context.needs_folder() / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = "".join(f"# {line}\n" for line in [*says, "run it with: compresskit run recipe.yaml -o OUT"])
    path.write_text(header + yaml.safe_dump(recipe, sort_keys=False))
    return path


def _steps_before(session: Session) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """(the recipe without its steps, steps before the search, the search's own options)."""
    given = dict(session.context.recipe or {})
    steps = given.pop("steps", [])
    place = next((number for number, step in enumerate(steps) if "search" in step), len(steps))
    own = steps[place]["search"] if place < len(steps) else session.options.model_dump(exclude_unset=True)
    return given, steps[:place], own


def _n2n_recipe(session: Session, child: Child) -> tuple[dict[str, Any], list[str]]:
    given, before, own = _steps_before(session)
    given.pop("output", None)
    step = {**own, "network": child.network}
    return {**given, "steps": [*before, {"search": step}]}, [
        "the student that the search found, made and trained again in the same way"
    ]


def _chain_recipe(session: Session, winner: Loaded) -> tuple[dict[str, Any], list[str]]:
    given, before, own = _steps_before(session)
    says = ["the network that the search found; it is trained anew from random weights, the search's are not copied"]
    training = _training(session)
    mode = session.options.recover.mode
    teacher = {} if before or mode == "finetune" else _teacher(given)
    if teacher:
        step: dict[str, Any] = {"distill": {**teacher, **training}}
    else:
        step = {"train": training}
        if mode != "finetune":
            says.append("the model that taught it in the search cannot be named here, so it learns from the labels")
    kept = {name: value for name, value in given.items() if name not in _OF_THE_MODEL}
    if kept.get("metric") == "agreement":  # it compares with the recipe's own model, which is untrained here
        del kept["metric"]
    return {"model": "builtin:chain", "model_arg": winner.source["args"], **kept, "steps": [step]}, says


def _training(session: Session) -> dict[str, Any]:
    """Training options of the search's recovery, or else a brief training's."""
    if session.options.trains():
        return session.options.recover.model_dump(exclude_unset=True, exclude={"mode", "labels"})
    an_epoch = max(1, session.context.needs_data().size("train") // BATCH)
    options = session.options
    steps = options.finetune_steps if options.finetune_finalists else options.child_steps
    return {"epochs": steps / an_epoch, "batch_size": BATCH, "lr": options.child_lr, "keep": "last"}


def _teacher(given: dict[str, Any]) -> dict[str, Any]:
    """Options of `distill` that name the recipe's model as the teacher; empty where they cannot."""
    arguments = given.get("model_arg") or {}
    if "model" not in given or not all(isinstance(value, str | int | float) for value in arguments.values()):
        return {}
    teacher: dict[str, Any] = {"teacher": [given["model"]]}
    if given.get("weights"):
        teacher["teacher_weights"] = [given["weights"]]
    return {**teacher, **({"teacher_args": arguments} if arguments else {})}


# -- plots -----------------------------------------------------------------------------------------------------------


def plots(session: Session, winner: Child, notes: list[str]) -> dict[str, Path]:
    """Draw the learning curve, all networks with their Pareto front, and the winner; needs matplotlib."""
    try:
        figure, (learning, networks, network) = new_figure(3, (17, 5))
    except InputError as error:
        notes.append(f"no plots: {error}")
        return {}
    path = session.context.needs_folder() / "search.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw_learning(learning, session)
    scored = [child for child in session.children if child.score is not None]
    networks.plot([_load(session, c) for c in scored], [c.score for c in scored], ".", color="grey")
    front = pareto(session)
    networks.step([_load(session, c) for c in front], [c.score for c in front], where="post")
    networks.axvline(1.0, linestyle=":", color="black")
    networks.set(xlabel="cost relative to the budget", ylabel="held-out score", title="all networks, Pareto front")
    names, widths = _bars(winner.network)
    network.barh(range(len(names)), widths)
    network.set_yticks(range(len(names)), names, fontsize=6)
    network.invert_yaxis()
    network.set(xlabel="channels", title="best network")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return {"search.png": path}


def _draw_learning(axes: Any, session: Session) -> None:
    rows = curve(session)
    scored = [child for child in session.children if child.score is not None]
    axes.plot([c.number for c in scored], [c.score for c in scored], ".", color="grey", label="network")
    failed = [row["trial"] for row in rows if row["score"] is None]
    axes.plot(failed, [0.0] * len(failed), "|", color="tab:red", label="infeasible")
    best = [(row["trial"], row["best"]) for row in rows if row["best"] is not None]
    axes.step([x for x, _ in best], [y for _, y in best], where="post", label="best within the budget")
    axes.set(xlabel="proposal", ylabel="held-out score", title="learning curve")
    axes.legend()


def _bars(network: Any) -> tuple[list[str], list[int]]:
    if isinstance(network, dict) and "removed" in network:
        kept = network["kept"]
        return [*kept, *network["removed"]], [*kept.values(), *[0] * len(network["removed"])]
    names = [f"{number} {layer['op']} {layer.get('kernel', '')}".strip() for number, layer in enumerate(network)]
    return names, [layer.get("out", 0) for layer in network]
