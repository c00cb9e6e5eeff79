"""What a run leaves: the records of its report, and the output folder with the last step's artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..artifact import artifact
from ..artifact.disk import files
from ..core.errors import GuardMissed
from ..core.reporting.report_figures import described_cost
from ..core.reporting.report_page import report_html
from ..core.timings.machine import machine
from ..model.checkpoints.weights import sha256_of
from ..training.context import StepResult
from .checks.guards import MISSED
from .measurement import Measurement, labels, warnings_of
from .recipe import Recipe, Step
from .resume.workspace import Workspace
from .techniques import STEPS

REPORT_VERSION = 1


def step_record(
    step: Step,
    result: StepResult,
    measured: Measurement,
    before: Measurement,
    seconds: float,
    own_costs: tuple[str, ...],
) -> dict[str, Any]:
    """What a report says of a step.

    Args:
        step: the step.
        result: what it returned.
        measured: its figures.
        before: those of the model before it.
        seconds: that it took.
        own_costs: costs of the user's own that were measured.
    """
    return {
        "technique": step.technique,
        "options": step.options.model_dump(),
        "seconds": round(seconds, 3),
        "measurement": measured.record(),
        "labels": labels(result.loaded, own_costs) | result.labels,
        "facts": result.facts,
        "notes": result.notes,
        "tables": result.tables,
        "warnings": [] if STEPS[step.technique].leaves_model else warnings_of(before, measured),
    }


def report_head(
    recipe: Recipe, command: list[str], key: str, baseline: Measurement | None, warnings: list[str]
) -> dict[str, Any]:
    """What a report says before its steps."""
    options = recipe.options
    return {
        "report_version": REPORT_VERSION,
        "command": command,
        "recipe": recipe.content(),
        "costs": {name: described_cost(name) for name in recipe.own_costs()},
        "seed": options.seed,
        "versions": artifact.versions(),
        "machine": machine(),
        "inputs_sha256": key,
        "original": baseline,
        "steps": [],
        "warnings": warnings,
    }


def missed_place(place: Path) -> Path:
    """Where what missed a step's guard is kept."""
    return place.with_name(place.name + MISSED)


def keep_missed(made: Path, place: Path, record: dict[str, Any], error: GuardMissed) -> GuardMissed:
    """Keep an artifact that missed a guard beside the finished steps, marked in its manifest and report.

    Args:
        made: the artifact, which is moved.
        place: of the step, had it held.
        record: of the step, for the artifact's report.
        error: says what was missed.
    Returns:
        the error, which says where the artifact is, too.
    """
    kept = missed_place(place)
    manifest = artifact.read_manifest(made)
    manifest["provenance"]["guard_missed"] = str(error)
    files.write_json(made / artifact.MANIFEST, manifest)
    files.write_json(made / artifact.REPORT, {**record, "guard_missed": str(error)})
    with files.replacing_own(kept) as temporary:
        for entry in made.iterdir():
            entry.rename(temporary / entry.name)
    return GuardMissed(f"{error}; the model that missed is {kept}", str(kept))


def publish(place: Workspace, last: Path, beside: list[Path], report: dict[str, Any]) -> None:
    """Copy the last step's artifact to the output, with further steps' files, the whole report and recipe."""
    with files.replacing(place.output, force=place.force or place.resume) as temporary:
        for entry in last.iterdir():
            if entry.name != artifact.REPORT:
                files.copy_into(entry, temporary / entry.name)
        _add_files(temporary, [step for step in beside if step != last])
        report["weights_sha256"] = sha256_of(temporary / artifact.WEIGHTS)
        files.write_json(temporary / artifact.REPORT, report)
        files.write_json(temporary / "recipe.json", report["recipe"])
        plots = sorted(entry for entry in temporary.iterdir() if entry.suffix in (".png", ".svg"))
        images = {plot.name: plot.read_bytes() for plot in plots}
        (temporary / "report.html").write_text(report_html(report, images), encoding="utf-8")


def _add_files(folder: Path, steps: list[Path]) -> None:
    """Copy the further files of steps into an artifact, and name them in its manifest."""
    manifest = artifact.read_manifest(folder)
    names = set(manifest["files"] or ())
    for step in steps:
        for name in artifact.read_manifest(step)["files"] or ():
            files.copy_into(step / name, folder / name)
            names.add(name)
    if steps:
        files.write_json(folder / artifact.MANIFEST, {**manifest, "files": sorted(names)})
