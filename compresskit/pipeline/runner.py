"""Running a recipe: step by step, each finished step an artifact keyed by everything that decides it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core import artifact, distributed, files
from ..core.errors import InputError
from ..core.machine import machine
from ..core.report import report_html
from ..core.types import Context, Loaded, StepResult
from ..core.weights import sha256_of
from .guards import check_guards
from .keys import base_key, is_finished, step_key
from .lint import lint
from .measurement import Measurement, labels, measure_model, warnings_of
from .preflight import checked_context
from .recipe import Recipe, Step
from .steps import becomes_original, follow
from .techniques import TECHNIQUES

REPORT_VERSION = 1


@dataclass
class Run:
    """One run of a recipe: its paths and what it prints.

    Attributes:
        recipe: what to do.
        output: directory of the final artifact; finished steps lie beside it in `OUTPUT.steps`.
        force: replace an existing output.
        resume: take finished steps whose key matches from `OUTPUT.steps`.
        command: the command line, for the report.
        log: prints a line of progress.
    """

    recipe: Recipe
    output: Path
    force: bool = False
    resume: bool = False
    command: list[str] = field(default_factory=list)
    log: Callable[[str], None] = lambda line: None

    @property
    def steps_folder(self) -> Path:
        """Where finished steps are kept."""
        return self.output.with_name(self.output.name + ".steps")


def run(task: Run) -> dict[str, Any]:
    """Run a recipe to its final artifact.

    Returns:
        The report, as written to report.json.
    Raises:
        InputError: on bad input; nothing existing is touched.
        GuardMissed: if a step missed a guard; finished steps are kept in `OUTPUT.steps`.
    """
    recipe, options = task.recipe, task.recipe.options
    if task.output.exists() and not (task.force or task.resume):
        raise InputError(f"output {str(task.output)!r} exists; give --force to replace it, or --resume to go on")
    warnings = lint(recipe)
    for warning in warnings:
        task.log(f"warning: {warning}")
    finished = len(list(task.steps_folder.glob("*-*"))) if task.resume else 0
    context = checked_context(recipe, task.log, output=task.output, finished=finished)
    context = replace(context, recipe=recipe.content())
    _make_folder(task.output.parent)
    if not task.resume and task.steps_folder.exists() and distributed.is_main():
        shutil.rmtree(task.steps_folder)
    baseline = measure_model(context.original, context, options) if distributed.is_main() else None
    progress = _Progress(base_key(options), baseline, baseline)
    report = _report_head(task, progress.key, baseline, warnings)

    def take(number: int, step: Step, current: Loaded, context: Context) -> Loaded:
        progress.key = step_key(progress.key, step)
        progress.place = task.steps_folder / f"{number}-{step.technique}"
        loaded, record, progress.before = _one_step(task, context, step, current, progress)
        if record:
            report["steps"].append(record)
        if becomes_original(recipe, number):
            progress.baseline = report["original"] = progress.before
        return loaded

    last = follow(recipe, context, take)
    if baseline is not None and not isinstance(report["original"], dict):
        report["original"] = report["original"].record()
    if distributed.is_main():
        report["labels"] = labels(last)
        _publish(task, progress.place, report)
    return report


@dataclass
class _Progress:
    """Where a run stands: the key and folder of its step, the figures before the step, and those compared with."""

    key: str
    before: Measurement | None
    baseline: Measurement | None
    place: Path = Path()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write below {str(folder)!r}: {error.strerror}") from error


def _one_step(
    task: Run,
    context: Context,
    step: Step,
    current: Loaded,
    progress: _Progress,
) -> tuple[Loaded, dict[str, Any] | None, Measurement | None]:
    """Take a finished step, or do it: technique, recovery, measurement, guards, artifact."""
    place, key = progress.place, progress.key
    if task.resume and is_finished(place, key):
        task.log(f"{place.name}: unchanged, taken from {place}")
        loaded = artifact.load(place, trust_source=True, source=task.recipe.options.source)
        loaded.module.to(context.device)
        record = artifact.read_report(place)
        return loaded, record, Measurement(**record["measurement"])
    started = time.perf_counter()
    scratch = place.with_name(place.name + ".work") / key[:12]
    scratch.mkdir(parents=True, exist_ok=True)
    result = do_step(step, current.clone(), replace(context, folder=scratch))
    seconds = time.perf_counter() - started
    if not distributed.is_main():
        return result.loaded, None, None
    provenance = {
        "key": key,
        "step": {step.technique: step.options.model_dump(exclude_unset=True)},
        "seed": context.seed,
        "command": task.command,
        "model": task.recipe.options.model,
        "loaded": context.original.notes,
    }
    with files.replacing(place, force=True) as temporary:
        inner = temporary / "artifact"
        size_bytes = artifact.save(result.loaded, inner, provenance=provenance, files=result.files)
        # what is measured is what was stored
        measured = measure_model(
            result.loaded, context, task.recipe.options, size_bytes=size_bytes, against=context.original
        )
        record = _step_record(step, result, measured, progress.before, seconds)
        check_guards(step.options, place.name, measured, progress.baseline, context.metric, task.steps_folder)
        files.write_json(inner / artifact.REPORT, record)
        for entry in inner.iterdir():
            entry.rename(temporary / entry.name)
        inner.rmdir()
    shutil.rmtree(scratch.parent, ignore_errors=True)
    return result.loaded, record, measured


def do_step(step: Step, loaded: Loaded, context: Context) -> StepResult:
    """Apply one technique and, where its options say so, recover accuracy by training."""
    context.log(f"{step.technique}: {TECHNIQUES[step.technique].summary[:-1].lower()}")
    function = TECHNIQUES[step.technique].function()
    mode = getattr(step.options, "recover", "none")
    if mode != "none" and context.data is None:
        raise InputError(f"{step.technique}: recover {mode} needs data; name it with data, e.g. data: digits")
    recovering = (
        replace(context, recover=lambda target: _recover(mode, target, step.options, context))
        if mode != "none"
        else context
    )
    result = function(loaded, step.options, recovering)
    if mode != "none":
        result.facts["recovery"] = {"mode": mode, **recovering.recover(result.loaded)}
    result.loaded.module.eval()
    return result


def _recover(mode: str, loaded: Loaded, options: Any, context: Context) -> dict[str, Any]:
    from ..core.train import train

    if mode == "finetune":
        return train(loaded, options, context)
    from ..distillation.distill import recover_objective

    return train(loaded, options, context, objective=recover_objective(context, options))


def _step_record(
    step: Step, result: StepResult, measured: Measurement, before: Measurement, seconds: float
) -> dict[str, Any]:
    return {
        "technique": step.technique,
        "options": step.options.model_dump(),
        "seconds": round(seconds, 3),
        "measurement": measured.record(),
        "labels": labels(result.loaded),
        "facts": result.facts,
        "notes": result.notes,
        "tables": result.tables,
        "warnings": warnings_of(before, measured),
    }


def _report_head(task: Run, key: str, baseline: Measurement | None, warnings: list[str]) -> dict[str, Any]:
    options = task.recipe.options
    return {
        "report_version": REPORT_VERSION,
        "command": task.command,
        "recipe": task.recipe.content(),
        "seed": options.seed,
        "versions": artifact.versions(),
        "machine": machine(),
        "inputs_sha256": key,
        "original": baseline,
        "steps": [],
        "warnings": warnings,
    }


def _publish(task: Run, last: Path, report: dict[str, Any]) -> None:
    """Copy the last step's artifact to the output, with the whole report and recipe."""
    with files.replacing(task.output, force=task.force or task.resume) as temporary:
        for entry in last.iterdir():
            if entry.name != artifact.REPORT:
                shutil.copyfile(entry, temporary / entry.name)
        report["weights_sha256"] = sha256_of(temporary / artifact.WEIGHTS)
        files.write_json(temporary / artifact.REPORT, report)
        files.write_json(temporary / "recipe.json", report["recipe"])
        (temporary / "report.html").write_text(report_html(report))


def command_line() -> list[str]:
    """The command as typed, for the report."""
    return ["compresskit", *sys.argv[1:]]


def discard_steps(task: Run) -> None:
    """Delete the finished steps of a run whose output stands."""
    shutil.rmtree(task.steps_folder, ignore_errors=True)
