"""Several finished runs side by side, from their reports alone: nothing is loaded or measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...artifact import artifact
from ...artifact.disk import files, ownership
from ...core.errors import InputError
from ...core.limits.json_files import LARGEST_MANIFEST_BYTES, read_json
from ...core.reporting.report_figures import NOT_MEASURED, figure_rows
from ...core.reporting.report_page import comparison_html


def holding_reports(runs: Sequence[str]) -> tuple[list[str], list[str]]:
    """What holds a report, and what is there without one, as `runs/*` names it too: steps, packed folders, files.

    Args:
        runs: artifact folders, report.json files, or others.
    Returns:
        those with a report, or that are not there at all, and those without; nothing is left out where none has one.
    """
    without = [run for run in runs if _holds_none(Path(run))]
    if len(without) == len(runs):
        return [*runs], []
    return [run for run in runs if run not in without], without


def _holds_none(path: Path) -> bool:
    return not (path / artifact.REPORT).is_file() if path.is_dir() else path.is_file() and path.suffix != ".json"


def read_reports(runs: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The reports of several runs, each with the name that it was given by.

    Args:
        runs: artifact folders, or report.json files.
    Raises:
        InputError: naming the first that is no report of a run.
    """
    found = []
    for run in runs:
        path = Path(run) / artifact.REPORT if Path(run).is_dir() else Path(run)
        if not path.is_file():
            raise InputError(f"run {run!r} holds no {artifact.REPORT}; name the output of a finished command")
        report = read_json(path, f"report {str(path)!r}", LARGEST_MANIFEST_BYTES)
        try:
            figure_rows(report)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            raise InputError(
                f"{str(path)!r} is not the report of a run; name the output of a finished command"
            ) from None
        found.append((run, report))
    return found


def compared(reports: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a table: each run after its last step, below its original, which runs may share.

    Times of runs of one original are scaled to the time that it took in the first of them.

    Args:
        reports: (name, report) of each run.
    """
    originals: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
    for name, report in reports:
        originals.setdefault(_original(report), []).append((name, report))
    lines: list[tuple[str, dict[str, str]]] = []
    for runs in originals.values():
        first, timed_by = runs[0]
        for name, report in runs:
            headings, (before, *_, after) = figure_rows(report, timed_by)
            if name == first:
                lines.append((f"original of {name}", dict(zip(headings, before, strict=True))))
            lines.append((name, dict(zip(headings, after, strict=True))))
    columns = list(dict.fromkeys(column for _, cells in lines for column in list(cells)[1:]))
    return ["run", *columns], [[name, *(cells.get(one, NOT_MEASURED) for one in columns)] for name, cells in lines]


def _original(report: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one original from another: its name, its size, and how good it was found to be."""
    figures = report["original"]
    metric = figures.get("metric") or {}
    return report.get("recipe", {}).get("model"), figures["macs"], figures["size_bytes"], metric.get("value")


def write_page(
    output: str, columns: Sequence[str], rows: Sequence[Sequence[str]], reports: Sequence[tuple[str, dict[str, Any]]],
    *, force: bool,
) -> None:  # fmt: skip
    """The same as a page.

    Args:
        output: file to write.
        columns, rows: as `compared` returns them.
        reports: what was compared.
        force: replace an existing page.
    Raises:
        InputError: if something is there already.
    """
    target = ownership.absolute(output)
    ownership.check_file(target, force=force, inputs=[Path(name) for name, _ in reports])
    with files.replacing_file(target) as temporary:
        temporary.write_text(comparison_html("compresskit: runs compared", columns, rows, reports), encoding="utf-8")
