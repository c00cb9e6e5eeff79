"""Running a recipe: step by step, each finished step an artifact keyed by everything that decides it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..analysis.calibration.block_walk.activation_cache import activation_memory
from ..artifact import artifact
from ..artifact.disk import files, ownership
from ..core import distributed
from ..core.errors import CompresskitError, GuardMissed, InputError, first_line
from ..core.reporting.phases import Listener, Timeline, phase, spent, timeline
from ..core.tensors.dispatch import unfused
from ..core.timings.decisions import Decisions
from ..core.types import Loaded
from ..training.context import Context, StepResult
from ..training.options import RecoverOptions
from .checks.guards import check_guards
from .checks.lint import lint
from .checks.preflight import checked_context
from .checks.sanity import baseline_warnings, sanity_warnings
from .estimating import estimated, said
from .measurement import Measurement, measure_model
from .opening import with_own_tokenizer
from .publishing import keep_missed, missed_place, publish, report_head, step_record
from .recipe import Recipe, Step
from .resume.keys import data_key, input_paths, machine_timings, recorded_timings, step_keys
from .resume.workspace import Workspace, finished_report, remove_tree
from .steps import becomes_original, follow, recovery_mode
from .techniques import STEPS


@dataclass
class Run:
    """One run of a recipe: its paths and what it prints.

    Attributes:
        recipe: what to do.
        output: directory of the final artifact; finished steps lie beside it in `OUTPUT.steps`.
        force: replace an existing output that this tool wrote.
        resume: take finished steps whose key matches from `OUTPUT.steps`.
        command: the command line, for the report.
        log: prints a line of progress.
        keep_steps: leave the finished steps beside the output when the run is over.
    """

    recipe: Recipe
    output: Path
    force: bool = False
    resume: bool = False
    command: list[str] = field(default_factory=list)
    log: Callable[[str], None] = lambda line: None
    keep_steps: bool = True

    @property
    def steps_folder(self) -> Path:
        """Where finished steps are kept."""
        return self.place.steps

    @cached_property
    def place(self) -> Workspace:
        """Where the run writes, made absolute once: code that is run may change the current folder."""
        return Workspace(ownership.absolute(self.output), self.force, self.resume, input_paths(self.recipe))


@dataclass(frozen=True)
class Outcome:
    """What a run leaves in memory.

    Attributes:
        report: as written to report.json.
        loaded: the model after the last step; None where an earlier run had finished already.
    """

    report: dict[str, Any]
    loaded: Loaded | None


def run(task: Run) -> dict[str, Any]:
    """Run a recipe to its final artifact, and return the report; raises what `carry_out` does."""
    return carry_out(task).report


def carry_out(task: Run) -> Outcome:
    """Run a recipe to its final artifact.

    Raises:
        InputError: on bad input; nothing existing is touched.
        GuardMissed: if a step missed a guard; finished steps are kept in `OUTPUT.steps`.
    """
    with task.place.held():
        fingerprints: dict[Path, str] = {}  # of the inputs, each read once
        keys = step_keys(task.recipe, leave_out=(task.place.output, task.place.steps), known=fingerprints)
        finished = task.place.check(keys[-1], task.log)
        if finished is not None:
            return Outcome(finished, None)
        with timeline(task.log if isinstance(task.log, Listener) else None) as times:
            return _run(task, keys, data_key(task.recipe.options, fingerprints), times)


def _run(task: Run, keys: list[str], data: str, times: Timeline) -> Outcome:
    recipe, options = task.recipe, task.recipe.options
    warnings: list[str] = []

    def warn(lines: list[str]) -> None:
        warnings.extend(lines)
        for line in lines:
            task.log(f"warning: {line}")

    warn(lint(recipe))
    timings = recorded_timings(options.timings)
    timed_here = machine_timings(options)
    finished = len(list(task.steps_folder.glob("*-*"))) if task.resume else 0
    with phase("check"):
        context = checked_context(recipe, task.log, output=task.place.output, finished=finished)
    context = replace(context, recipe=recipe.content(), data_key=data, own_costs=recipe.own_costs())
    warn(sanity_warnings(recipe, context))
    estimates = estimated(recipe, context)
    for record in estimates:
        task.log(said(record))
    task.place.begin()
    with phase("baseline"):
        baseline = measure_model(context.original, context, options) if distributed.is_main() else None
    if baseline is not None:
        warn(baseline_warnings(recipe, context, baseline.metric))
    progress = _Progress(keys[0], baseline, baseline)
    report = report_head(recipe, task.command, progress.key, baseline, warnings)
    report["eval_batch"] = context.eval_batch
    if context.data is not None:
        report["data"] = context.data.notes()

    beside: list[Path] = []  # steps that wrote further files, and no other model

    def take(number: int, step: Step, current: Loaded, context: Context) -> Loaded:
        progress.key = keys[number + 1]
        progress.place = task.place.step(number, step.technique)
        progress.estimate = {name: value for name, value in estimates[number].items() if name != "place"}
        context = replace(context, decisions=Decisions(given=timings.get(progress.place.name), machine=timed_here))
        loaded, record, measured = _one_step(task, context, step, current, progress)
        if STEPS[step.technique].leaves_model:
            beside.append(progress.place)
        else:
            progress.before = measured
        if record:
            report["steps"].append(record)
        if becomes_original(recipe, number):
            progress.baseline = report["original"] = progress.before
        return loaded

    last = follow(recipe, context, take)
    if baseline is not None and not isinstance(report["original"], dict):
        report["original"] = report["original"].record()
    if distributed.is_main():
        report["labels"] = report["steps"][-1]["labels"]
        report["phases"] = times.taken()
        publish(task.place, progress.place, beside, report)
        task.place.finish(keep_steps=task.keep_steps)
        task.log(spent(report["phases"]))
    return Outcome(report, last)


@dataclass
class _Progress:
    """Where a run stands: key, folder and estimate of its step, the figures before the step, those compared with."""

    key: str
    before: Measurement | None
    baseline: Measurement | None
    place: Path = Path()
    estimate: dict[str, Any] = field(default_factory=dict)


def _one_step(
    task: Run,
    context: Context,
    step: Step,
    current: Loaded,
    progress: _Progress,
) -> tuple[Loaded, dict[str, Any] | None, Measurement | None]:
    """Take a finished step, or do it: technique, recovery, measurement, guards, artifact."""
    place, key = progress.place, progress.key
    taken = _taken(task, context, place, key) if task.resume else None
    if taken is not None:
        return taken
    started = time.perf_counter()
    scratch = task.place.work(place, key)
    remove_tree(missed_place(place))
    decisions = context.decisions.kept_in(scratch / "timings.jsonl")
    taking = with_own_tokenizer(context, current, task.recipe.options)
    result = do_step(step, current.clone(), replace(taking, folder=scratch, decisions=decisions))
    seconds = time.perf_counter() - started
    before, baseline = progress.before, progress.baseline
    if before is None or baseline is None:  # only the main process measures
        return result.loaded, None, None
    provenance = {
        "key": key,
        "step": {step.technique: step.options.model_dump(exclude_unset=True)},
        "seed": context.seed,
        "command": task.command,
        "model": task.recipe.options.model,
        "loaded": context.original.notes,
        "timings": decisions.used,
        "effort": progress.estimate,
    }
    try:
        with files.replacing_own(place) as temporary:
            inner = temporary / "artifact"
            with phase("save"):
                size_bytes = artifact.save(result.loaded, inner, provenance=provenance, files=result.files)
            # what is measured is what was stored
            with phase("measure"):
                measured = measure_model(
                    result.loaded,
                    with_own_tokenizer(context, result.loaded, task.recipe.options),
                    task.recipe.options,
                    size_bytes=size_bytes,
                    against=context.original,
                    taken=result.figures,
                )
            record = step_record(step, result, measured, before, seconds, context.own_costs)
            record |= {"timings": decisions.used, "effort": progress.estimate}
            try:
                check_guards(
                    step.options, place.name, measured, baseline, context.metric, task.steps_folder, result.says,
                    result.missed,
                )  # fmt: skip
            except GuardMissed as error:
                raise keep_missed(inner, place, record, error) from error
            files.write_json(inner / artifact.REPORT, record)
            for entry in inner.iterdir():
                entry.rename(temporary / entry.name)
            inner.rmdir()
    except GuardMissed:
        remove_tree(scratch.parent)  # other guards are other keys, for which nothing here would be taken
        raise
    kept = {name: path if path.is_file() and scratch not in path.parents else place / name
            for name, path in result.loaded.companions.items()}  # fmt: skip
    result.loaded.companions = kept
    remove_tree(scratch.parent)
    return result.loaded, record, measured


def _taken(
    task: Run, context: Context, place: Path, key: str
) -> tuple[Loaded, dict[str, Any] | None, Measurement | None] | None:
    """A finished step as `_one_step` returns it; None where there is none, or it is damaged."""
    record = finished_report(place, key)
    if record is None:
        return None
    try:
        module = getattr(context.original.source, "module", None)  # of a module in memory, which no code builds
        source = task.recipe.options.source if module is None else None
        loaded = artifact.load(place, trust_source=True, source=source, module=module)
        measurement = Measurement.from_record(record["measurement"])
    except (CompresskitError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        task.log(f"{place.name}: done again, because what is in {place} cannot be used: {first_line(error)}")
        return None
    task.log(f"{place.name}: unchanged, taken from {place}")
    loaded.module.to(context.device)
    return loaded, record, measurement


def do_step(step: Step, loaded: Loaded, context: Context) -> StepResult:
    """Apply one technique and, where its options say so, recover accuracy by training."""
    context.log(f"{step.technique}: {STEPS[step.technique].summary[:-1].lower()}")
    function = STEPS[step.technique].function()
    mode = recovery_mode(step.options)
    if mode != "none" and context.data is None:
        raise InputError(f"{step.technique}: recover {mode} needs data; name it with data, e.g. data: digits")
    recovering = (
        replace(context, recover=lambda target: _recover(target, step.options.recover, context))
        if mode != "none"
        else context
    )
    memory = activation_memory(getattr(step.options, "activation_memory", None))
    # what looks at layers must see them called, with plain tensors; a step that leaves the model times it as it is
    with memory, nullcontext() if STEPS[step.technique].leaves_model else unfused(), phase(step.technique):
        result = function(loaded, step.options, recovering)
    if mode != "none":
        result.facts["recovery"] = {"mode": mode, **recovering.needs_recovery()(result.loaded)}
    result.loaded.module.eval()
    return result


def inspect_step(step: Step, context: Context) -> dict[str, Any]:
    """Facts, tables and notes of a step that only looks at a run's model: nothing is measured or written."""
    result = do_step(step, context.original.clone(), context)
    return {"facts": result.facts, "tables": result.tables, "notes": result.notes}


@phase("recover")
def _recover(loaded: Loaded, options: RecoverOptions, context: Context) -> dict[str, Any]:
    from ..training.adapters import adapters
    from ..training.loop import train

    if options.lora is not None:
        with adapters(loaded, options.lora, context.seed) as trained:
            found = _recover(loaded, options.model_copy(update={"lora": None}), context)
        return {**found, "trained_parameters": trained}
    if options.mode == "finetune":
        return train(loaded, options, context)
    from ..distillation.distill import recover_objective

    objective = recover_objective(context, options, loaded)
    return train(loaded, options, context, objective=objective, extra_modules=objective.adapters)


def command_line() -> list[str]:
    """The command as typed, for the report."""
    return ["compresskit", *sys.argv[1:]]
