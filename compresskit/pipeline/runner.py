"""Running a recipe: step by step, each finished step an artifact keyed by everything that decides it."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core import artifact, distributed
from ..core.data import open_data
from ..core.errors import CompresskitError, GuardMissed, InputError
from ..core.metrics import make_metric
from ..core.source import load_model, with_example
from ..core.types import Context, Loaded, StepResult
from ..core.weights import sha256_of
from .lint import lint
from .measurement import Measurement, labels, measure_model, warnings_of
from .recipe import Recipe, RecipeOptions, Step
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


def open_context(options: RecipeOptions, log: Callable[[str], None] = lambda line: None) -> Context:
    """Load the recipe's model and open its data: the context that every step starts from.

    Raises:
        InputError: naming what does not load.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    original = load_model(
        options.model, weights=options.weights, model_args=dict(options.model_arg), inputs=list(options.input),
        trust_source=options.trust_source, source=options.source, seed=options.seed,
    )
    data = open_data(options.data, original.preprocessing, dict(options.data_arg)) if options.data else None
    original = with_example(original, data.input_shape if data else None)
    original.module.to(device)
    if data:
        _check_input(original, data)
        if data.note:
            log(f"data: {data.note}")
    metric = make_metric(options.metric, original.module)

    def load(string: str, **given: Any) -> Loaded:
        found = load_model(string, seed=options.seed, trust_source=options.trust_source, **given)
        found = with_example(found, data.input_shape if data else None)
        found.module.to(device)
        return found

    return Context(original, data, metric, options.seed, device, log, load=load)


def pick_device(name: str) -> torch.device:
    """The device that a name means; auto takes an accelerator where one works.

    Raises:
        InputError: if the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} is not available here: {str(error).splitlines()[0]}; try cpu") from error
    return device


def _check_input(loaded: Loaded, data: Any) -> None:
    """One batch of the data through the model, so that a misfit is named before any work."""
    from ..core.types import call, main_output, to_device

    inputs, _ = next(iter(data.batches("test", batch_size=2)))
    device = next((p.device for p in loaded.module.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            outputs = main_output(call(loaded.module, to_device(inputs, device)))
    except CompresskitError:
        raise
    except Exception as error:
        shape = list(inputs.shape) if hasattr(inputs, "shape") else type(inputs).__name__
        raise InputError(
            f"data {data.name!r} gives inputs {shape}, which model {loaded.name!r} does not take: {str(error).splitlines()[0]}"
        ) from error
    if data.num_classes and outputs.dim() == 2 and outputs.shape[1] < data.num_classes:
        raise InputError(
            f"data {data.name!r} has {data.num_classes} classes, model {loaded.name!r} has {outputs.shape[1]} outputs; "
            f"e.g. --model-arg num_classes={data.num_classes}"
        )


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
    _make_folder(task.output.parent)
    warnings = lint(recipe)
    for warning in warnings:
        task.log(f"warning: {warning}")
    context = open_context(options, task.log)
    if not task.resume and task.steps_folder.exists() and distributed.is_main():
        shutil.rmtree(task.steps_folder)
    current = context.original
    baseline = measure_model(current, context, options) if distributed.is_main() else None
    report = _report_head(task, baseline, warnings)
    key = _base_key(options)
    before = baseline
    for number, step in enumerate(recipe.steps):
        key = _step_key(key, step)
        place = task.steps_folder / f"{number}-{step.technique}"
        current, record, before = _one_step(task, context, step, current, place, key, before, baseline)
        if record:
            report["steps"].append(record)
        followed = number + 1 < len(recipe.steps)
        if followed and step.technique == "train" and all(earlier.technique == "train" for earlier in recipe.steps[:number]):
            # what a recipe trains first is what its later steps are compared with and taught by
            context = replace(context, original=current.clone())
            context = replace(context, metric=make_metric(options.metric, context.original.module))
            baseline = report["original"] = before
    if baseline is not None and not isinstance(report["original"], dict):
        report["original"] = report["original"].record()
    if distributed.is_main():
        report["labels"] = labels(current)
        _publish(task, place, report)
    return report


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write below {str(folder)!r}: {error.strerror}") from error


def _one_step(
    task: Run, context: Context, step: Step, current: Loaded, place: Path, key: str, before: Measurement | None,
    baseline: Measurement | None,
) -> tuple[Loaded, dict[str, Any] | None, Measurement | None]:
    """Take a finished step, or do it: technique, recovery, measurement, guards, artifact."""
    if task.resume and _finished(place, key):
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
    provenance = {"key": key, "step": {step.technique: step.options.model_dump(exclude_unset=True)}, "seed": context.seed,
                  "command": task.command, "model": task.recipe.options.model}
    with artifact.replacing(place, force=True) as temporary:
        inner = temporary / "artifact"
        size_bytes = artifact.save(result.loaded, inner, provenance=provenance, files=result.files)
        # what is measured is what was stored
        measured = measure_model(result.loaded, context, task.recipe.options, size_bytes=size_bytes, against=context.original)
        record = _step_record(step, result, measured, before, seconds)
        _guard(step, place.name, measured, baseline, context, task.steps_folder)
        artifact.write_json(inner / artifact.REPORT, record)
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
    recovering = replace(context, recover=lambda target: _recover(mode, target, step.options, context)) if mode != "none" else context
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


def _step_record(step: Step, result: StepResult, measured: Measurement, before: Measurement, seconds: float) -> dict[str, Any]:
    return {
        "technique": step.technique, "options": step.options.model_dump(), "seconds": round(seconds, 3),
        "measurement": measured.record(), "labels": labels(result.loaded), "facts": result.facts, "notes": result.notes,
        "tables": result.tables, "warnings": warnings_of(before, measured),
    }


def _guard(step: Step, name: str, measured: Measurement, baseline: Measurement, context: Context, kept: Path) -> None:
    """Raise GuardMissed, naming step, guard, limit and figure, if the step missed one of its guards."""
    options, missed = step.options, []
    if options.max_drop is not None:
        if not measured.metric:
            raise InputError(f"{name}: max_drop needs data to measure the metric on; name it with data")
        drop = context.metric.drop(baseline.metric["value"], measured.metric["value"])
        if drop > options.max_drop:
            missed.append(f"{context.metric.name} fell by {drop:.4f}, max_drop is {options.max_drop}")
    if options.min_speedup is not None:
        if not measured.latency:
            raise InputError(f"{name}: min_speedup needs latency_rounds above 0")
        if measured.latency["speedup"] < options.min_speedup:
            missed.append(f"speed-up is {measured.latency['speedup']:.2f}x, min_speedup is {options.min_speedup}")
    if options.max_bytes is not None and measured.size_bytes > options.max_bytes:
        missed.append(f"weights take {measured.size_bytes:,} bytes, max_bytes is {options.max_bytes:,}")
    if missed:
        good = sorted(path.name for path in kept.glob("*-*") if (path / artifact.MANIFEST).is_file()) if kept.is_dir() else []
        good = [entry for entry in good if int(entry.split("-")[0]) < int(name.split("-")[0])]
        last = f"the last good artifact is {kept / good[-1]}" if good else "no earlier step's artifact exists"
        raise GuardMissed(f"step {name}: {'; '.join(missed)}; {last}")


def _finished(place: Path, key: str) -> bool:
    try:
        return artifact.read_manifest(place)["provenance"].get("key") == key and artifact.read_report(place) is not None
    except (InputError, ValueError):
        return False


def _base_key(options: RecipeOptions) -> str:
    """Hash of everything that decides the first step's input: model, weights, data, evaluation, seed, version."""
    record = options.model_dump(exclude={"output", "threads"})
    for name in ("weights",):
        path = Path(str(record[name]))
        if record[name] and path.is_file():
            record[name] = sha256_of(path)
    manifest = Path(options.model) / artifact.MANIFEST
    if manifest.is_file():
        record["model"] = sha256_of(manifest)
    elif Path(options.model.partition(":")[0]).is_file():
        record["model_file"] = sha256_of(Path(options.model.partition(":")[0]))
    location = Path(str(options.data).partition(":")[2])
    if location.is_file():
        record["data_file"] = sha256_of(location)
    return _digest([__version__, record])


def _step_key(previous: str, step: Step) -> str:
    return _digest([previous, step.technique, step.options.model_dump()])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _report_head(task: Run, baseline: Measurement | None, warnings: list[str]) -> dict[str, Any]:
    options = task.recipe.options
    return {
        "report_version": REPORT_VERSION, "command": task.command, "recipe": task.recipe.content(), "seed": options.seed,
        "versions": artifact.versions(), "machine": machine(), "inputs_sha256": _base_key(options),
        "original": baseline, "steps": [], "warnings": warnings,
    }


def machine() -> dict[str, Any]:
    """Where figures were taken."""
    return {
        "processor": _processor(), "threads": torch.get_num_threads(), "platform": platform.platform(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _publish(task: Run, last: Path, report: dict[str, Any]) -> None:
    """Copy the last step's artifact to the output, with the whole report and recipe."""
    with artifact.replacing(task.output, force=task.force or task.resume) as temporary:
        for entry in last.iterdir():
            if entry.name != artifact.REPORT:
                shutil.copyfile(entry, temporary / entry.name)
        report["weights_sha256"] = sha256_of(temporary / artifact.WEIGHTS)
        artifact.write_json(temporary / artifact.REPORT, report)
        artifact.write_json(temporary / "recipe.json", report["recipe"])


def command_line() -> list[str]:
    """The command as typed, for the report."""
    return ["compresskit", *sys.argv[1:]]


def discard_steps(task: Run) -> None:
    """Delete the finished steps of a run whose output stands."""
    shutil.rmtree(task.steps_folder, ignore_errors=True)
