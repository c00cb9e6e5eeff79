"""Guards: what a step must hold, checked against its measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...artifact import artifact
from ...core.costs import Amount, cost_of, guard_of, names
from ...core.errors import GuardMissed, InputError
from ...evaluation.metrics import Metric
from ..measurement import Measurement

#: ends the name of the folder of a step that missed a guard
MISSED = ".missed"


def check_guards(
    options: Any,
    name: str,
    measured: Measurement,
    baseline: Measurement,
    metric: Metric | None,
    kept: Path,
    says: Mapping[str, str] | None = None,
    budgets: Sequence[str] = (),
) -> None:
    """Hold a step's measurement against its guards.

    Args:
        options: the step's options (`core.options.GuardOptions`).
        name: the step's folder name, `NUMBER-TECHNIQUE`.
        measured: the step's figures.
        baseline: the original model's figures.
        metric: what `max_drop` is about.
        kept: folder of finished steps.
        says: of costs whose figure is of something else than the model, the clause in the place of `Cost.says`.
        budgets: those that the step found missed, a clause each.
    Raises:
        GuardMissed: naming step, guard, limit, figure, and the last good artifact.
        InputError: if a guard needs a figure that is not measured.
    """
    missed = list(budgets)
    if options.max_drop is not None:
        if not measured.metric:
            raise InputError(f"{name}: max_drop needs data to measure the metric on; name it with data")
        if metric is None or not baseline.metric:
            raise InputError(f"{name}: max_drop needs the metric of the model before; name data")
        before = baseline.metric["value"]
        drop = metric.drop(before, measured.metric["value"])
        if drop > metric.allowed_drop(options.max_drop, before):
            moved = "fell" if metric.higher_is_better else "rose"
            amount = f"{drop:.4f}" if metric.scale == "share" else f"{drop:.4g} from {before:.4g}"
            missed.append(f"{metric.name} {moved} by {amount}, max_drop is {options.max_drop}")
    if options.min_speedup is not None:
        record = _timed_record(measured, f"{name}: min_speedup", *names("timed"))
        if record["speedup"] < options.min_speedup:
            missed.append(f"speed-up is {record['speedup']:.2f}x, min_speedup is {options.min_speedup}")
    given = options.given_limits()
    for cost, amount in options.limits().items():
        guard = guard_of(cost)
        figure, limit = _figure_and_limit(cost, amount, measured, baseline, f"{name}: {guard}")
        if figure > limit:
            row = cost_of(cost)
            clause = (says or {}).get(cost, row.says)
            missed.append(f"{clause.format(row.shown(figure))}, {guard} is {given[cost]}")
    if missed:
        good = (
            sorted(path.name for path in kept.glob("*-*") if (path / artifact.MANIFEST).is_file())
            if kept.is_dir()
            else []
        )
        good = [
            entry for entry in good if not entry.endswith(MISSED) and int(entry.split("-")[0]) < int(name.split("-")[0])
        ]
        last = f"the last good artifact is {kept / good[-1]}" if good else "no earlier step's artifact exists"
        raise GuardMissed(f"step {name}: {'; '.join(missed)}; {last}")


def _timed_record(measured: Measurement, guard: str, cost: str) -> dict[str, Any]:
    if not measured[cost]:
        raise InputError(f"{guard} needs latency_rounds above 0")
    return measured[cost]


def _figure_and_limit(
    cost: str, amount: Amount, measured: Measurement, baseline: Measurement, guard: str
) -> tuple[float, float]:
    """A cost's figure and the largest one allowed; of a timed cost's share, what the A/B comparison found counts."""
    if cost_of(cost).known == "timed":
        record = _timed_record(measured, guard, cost)
        return record["model_ms"], amount.of(record["model_ms"] * record["speedup"])
    if measured[cost] is None:
        raise InputError(f"{guard} needs {cost_of(cost).noun}, which is not measured here")
    return measured[cost], amount.of(baseline[cost] or 0)
