"""The figures of a report as text: headings and cells, the same for terminals, pages and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..costs import Cost, cost_of, field_of, guard_of, names

NOT_MEASURED = "not measured"
_LEAST_IN_DECIMALS = 0.01  # values below need more than four decimals


def figure_rows(report: dict[str, Any], timed_by: dict[str, Any] | None = None) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of figures: a row for the original and one a step.

    Args:
        report: of a run.
        timed_by: report of another run of the same original, whose times of it hold for both; default: its own.
    """
    columns, original = _columns(report, timed_by or report), report["original"]
    rows = [[name, *(show(figures, original) for show in columns.values())] for name, figures in _models(report)]
    return ["step", *columns], rows


def _models(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The original and the model after each step, with their figures."""
    return [("original", report["original"]), *((step["technique"], step["measurement"]) for step in report["steps"])]


#: (figures of a model, those of the original) -> a cell
_Show = Callable[[dict[str, Any], dict[str, Any]], str]


def _columns(report: dict[str, Any], timed_by: dict[str, Any]) -> dict[str, _Show]:
    """Heading -> cells: what is counted, the metric, what is timed, the rest; what is modelled if a step names it."""
    named = costs_of(report)
    exact = {cost.noun: partial(_with_share, cost) for cost in named if cost.known == "exact" and not cost.modelled}
    timed: dict[str, _Show] = {}
    for cost in (cost for cost in named if cost.known == "timed"):
        timed[cost.noun] = partial(_milliseconds, _baseline_ms(timed_by, cost), cost)
        timed["speed-up"] = partial(_speedup, cost)
        if _has_eager(report, cost):
            timed["to eager"] = partial(_to_eager, cost)
    rest = {cost.noun: partial(_plain_figure, cost) for cost in named if cost.known == "predicted"}
    modelled = {f"{cost.noun} (model)": partial(_with_share, cost) for cost in named if cost.modelled}
    metric: dict[str, _Show] = {_metric_name(report): lambda figures, _: metric_text(figures.get("metric"))}
    found = (figures.get("generation") for _, figures in (*_models(timed_by), *_models(report)))
    rate = next((record["tokens_per_second"] / record["speedup"] for record in found if record), None)
    generated: dict[str, _Show] = {} if rate is None else {"tokens/s": partial(_tokens_per_second, rate)}
    return exact | metric | timed | generated | rest | modelled


def described_cost(name: str) -> dict[str, str]:
    """What a report says of a user's own cost, so that it is shown without the user's code."""
    cost = cost_of(name)
    return {"noun": cost.noun, "unit": cost.unit}


def costs_of(report: dict[str, Any]) -> list[Cost]:
    """The costs that a report shows: those that a step names among the modelled ones, and all others."""
    costs = [cost for name in names() if not (cost := cost_of(name)).modelled or _is_named(report, name)]
    own = report.get("costs", {}).items()
    return costs + [Cost(**described, figure=name, modelled=True) for name, described in own]


def _is_named(report: dict[str, Any], name: str) -> bool:
    """Whether a step gives a budget or a guard of a cost."""
    given = (step.get("options", {}) for step in report["steps"])
    return any(options.get(key) is not None for options in given for key in (field_of(name), guard_of(name)))


def _metric_name(report: dict[str, Any]) -> str:
    metric = report["original"].get("metric")
    return metric["name"] if metric else "metric"


def _plain_figure(cost: Cost, figures: dict[str, Any], _original: dict[str, Any]) -> str:
    figure = figures.get(cost.figure)
    if not figure:
        return NOT_MEASURED
    return f"{figure:,}" if cost.is_counted else cost.shown(figure)


def _with_share(cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    whole = original.get(cost.figure)
    if figures is original or not whole:
        return f"{figures[cost.figure]:,}" if cost.is_counted else _plain_figure(cost, figures, original)
    figure = f"{figures[cost.figure]:,}" if cost.is_counted else cost.shown(figures[cost.figure])
    return f"{figure} ({figures[cost.figure] / whole:.0%})"


def _baseline_ms(report: dict[str, Any], cost: Cost) -> float | None:
    """The original's time as the first step that timed it found it: what all steps' times are scaled to."""
    records = (step["measurement"].get(cost.figure) for step in report["steps"])
    return next((in_eager(record)["baseline_ms"] for record in records if record), None)


def in_eager(record: dict[str, Any]) -> dict[str, Any]:
    """The comparison of a record with eager PyTorch: its own, or beside one with float in another runtime."""
    return record.get("to_eager") or record


def _has_eager(report: dict[str, Any], cost: Cost) -> bool:
    return any("to_eager" in (figures.get(cost.figure) or {}) for _, figures in _models(report))


def _to_eager(cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    record = figures.get(cost.figure)
    return _speedup(cost, {cost.figure: in_eager(record)} if record else figures, original)


def _milliseconds(baseline_ms: float | None, cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    """Times of one machine in one state: each step's ratio to the original, applied to one time of the original."""
    record = figures.get(cost.figure)
    if baseline_ms is not None and (record or figures is original):
        return f"{baseline_ms / (in_eager(record)['speedup'] if record else 1.0):.2f} ms"
    return NOT_MEASURED


def _tokens_per_second(baseline: float, figures: dict[str, Any], original: dict[str, Any]) -> str:
    """Of a model that generates text: each step's ratio to the original, applied to one rate of the original."""
    record = figures.get("generation")
    if record:
        return f"{baseline * record['speedup']:.1f} ({record['speedup']:.2f}x)"
    return f"{baseline:.1f}" if figures is original else NOT_MEASURED


def _speedup(cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    if figures is original:
        return "1.00x"
    record = figures.get(cost.figure)
    if not record:
        return NOT_MEASURED
    return f"{record['speedup']:.2f}x ({record['speedup_low']:.2f}-{record['speedup_high']:.2f})"


def metric_text(metric: dict[str, Any] | None) -> str:
    """`0.9722 [0.949, 0.985]`: the value and its 95 % interval; of very small and large values the leading digits."""
    if not metric:
        return NOT_MEASURED
    value, ends = metric["value"], (metric["low"], metric["high"])
    if value == 0 or _LEAST_IN_DECIMALS <= abs(value) < 1 / _LEAST_IN_DECIMALS:
        return f"{value:.4f} [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{value:.4g} [{ends[0]:.3g}, {ends[1]:.3g}]"


#: what a bar shows of a model: key of a measurement -> its name
_BARS = {cost.figure: cost.noun for cost in map(cost_of, names("exact")) if not cost.modelled}


def headline(report: dict[str, Any]) -> list[dict[str, str]]:
    """What the whole run did, the large figures of a page: (figure, what it is), best known first; [] without steps."""
    if not report["steps"]:
        return []
    original, final = report["original"], report["steps"][-1]["measurement"]
    found = [
        {"figure": f"{final[key] / original[key]:.0%}", "says": f"of the {name}"}
        for key, name in _BARS.items()
        if original.get(key) and final.get(key)
    ]
    for cost in map(cost_of, names("timed")):
        record = final.get(cost.figure)
        if record:
            ends = f"{record['speedup_low']:.2f} to {record['speedup_high']:.2f}"
            of = "of float in the same runtime, " if "to_eager" in record else ""
            found.append({"figure": f"{record['speedup']:.2f}x", "says": f"speed {of}({cost.noun}, quartiles {ends})"})
            if of:
                eager = f"{record['to_eager']['speedup']:.2f}x"
                found.append({"figure": eager, "says": f"speed of float in eager PyTorch ({cost.noun})"})
    before, after = original.get("metric"), final.get("metric")
    if before and after:
        change = after["value"] - before["value"]
        where = "below" if change < 0 else "above"
        against = f"{abs(change):.4f} {where} the original" if change else "as the original"
        found.append({"figure": f"{after['value']:.4g}", "says": f"{after['name']}, {against}"})
    return found


def bars_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """For each step what is left of each cost: {name, bars: [{name, percent}]}."""
    original = report["original"]
    return [
        {
            "name": step["technique"],
            "bars": [
                {"name": f"{name} left", "percent": round(100 * step["measurement"][key] / original[key], 1)}
                for key, name in _BARS.items()
                if original.get(key) and step["measurement"].get(key) is not None
            ],
        }
        for step in report["steps"]
    ]


def intervals_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The metric of each model with its 95 % interval, as percentages of the range that all intervals span."""
    return _placed([(name, figures["metric"]) for name, figures in _models(report) if figures.get("metric")])


def intervals_of_runs(runs: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same for what each run left, below the original of the first; runs with another metric are left out."""
    scored: list[tuple[str, dict[str, Any]]] = []
    for name, report in runs:
        models = [report["original"], *(step["measurement"] for step in report["steps"][-1:])]
        metrics = [figures.get("metric") for figures in models]
        if all(metrics) and (not scored or metrics[-1]["name"] == scored[0][1]["name"]):
            scored += [(name, metrics[-1])] if scored else [(f"original of {name}", metrics[0]), (name, metrics[-1])]
    return _placed(scored)


def _placed(scored: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    if not scored:
        return []
    low, high = min(metric["low"] for _, metric in scored), max(metric["high"] for _, metric in scored)

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 1) if high > low else 50.0

    return [
        {
            "name": name, "text": metric_text(metric), "metric": metric["name"], "value": place(metric["value"]),
            "low": place(metric["low"]), "width": round(place(metric["high"]) - place(metric["low"]), 1),
        }
        for name, metric in scored
    ]  # fmt: skip
