"""Export as a step of a recipe: a file beside the artifact, its figures in the report and under the guards."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from ..core import distributed
from ..core.costs import BYTES, cost_of, names
from ..core.errors import InputError, problems_of
from ..core.types import Loaded
from ..training.context import Context, StepResult
from .exporters.traced import traced
from .folders.folder import check_source
from .lowering import carry_out, check_batch
from .measures.beside_float import contest, timed
from .options import ExportStepOptions

_RATIOS = ("speedup", "speedup_low", "speedup_high")


def export_step(loaded: Loaded, options: ExportStepOptions, context: Context) -> StepResult:
    """Write a model for another runtime, and measure it there against the original model in float in the same runtime.

    Args:
        loaded: the model, which is left as it is; runtimes compute on the CPU, whatever device the recipe names.
        options: format, runtime, what is measured, guards.
        context: its folder is where the file is written.
    Returns:
        the model as it was, the file, and figures of the file in the place of the model's own.
    Raises:
        InputError: if the model cannot be exported, or the runtime fails.
    """
    if not distributed.is_main():
        return StepResult(loaded)
    path = context.needs_folder() / options.file_name()
    done = carry_out(_on_cpu(loaded), options, context, path)
    latency = _latency(_on_cpu(context.original), done.runner, options) if options.rounds else None
    timed_figures = [cost_of(name).figure for name in names("timed")]
    figures = {cost_of(BYTES).figure: done.facts["file_bytes"], **dict.fromkeys(timed_figures, latency)}
    if done.score is not None and context.metric is not None:
        figures["metric"] = {"name": context.metric.name, **asdict(done.score)}
    runs = f"{done.facts['latency_label']}: {done.facts['runtime']} {done.facts['runtime_version']}"
    labels = {cost_of(BYTES).figure: f"stored: size of {path.name}", **dict.fromkeys([*timed_figures, "metric"], runs)}
    written = [path, *(path.with_name(name) for name in options.files_beside(path.name))]
    files = {file.name: file for file in written if file.exists()}
    says = {BYTES: path.name.replace("{", "{{").replace("}", "}}") + " takes {}"}
    tables = {name.replace("_", " "): rows for name, rows in done.tables.items()}
    return StepResult(loaded, done.facts, done.notes, tables, files=files, figures=figures, labels=labels, says=says)


def _latency(original: Loaded, runner: nn.Module, options: ExportStepOptions) -> dict[str, Any]:
    floats = options.model_copy(update={"preprocess": "outside"})  # the runner is called with floats, too
    with contest(original, runner, floats, original) as taking_part:
        return _record(timed(taking_part, original.example, options), options)


def _record(found: dict[str, Any], options: ExportStepOptions) -> dict[str, Any]:
    """The record of a timing against float in the same runtime, with the one against eager PyTorch in it."""
    eager = {name: found[f"speedup_to_eager{name.removeprefix('speedup')}"] for name in _RATIOS}
    return {
        "baseline_ms": found["float_latency_ms"],
        "model_ms": found["latency_ms"],
        **{name: found[name] for name in _RATIOS},
        "batch_size": options.batch_size,
        "threads": options.threads,
        "to_eager": {"baseline_ms": found["eager_float_latency_ms"], "model_ms": found["latency_ms"], **eager},
    }


def check(loaded: Loaded, options: ExportStepOptions, context: Context) -> None:
    """What an export of a model would refuse: a line each.

    Raises:
        InputError: if the runtime does not read the format, or the model cannot be traced or takes no such batch.
    """
    on_cpu = _on_cpu(loaded)
    problems = problems_of(
        options.check_pair,
        lambda: options.check_name(options.file_name()),
        lambda: check_batch(on_cpu, options),
        lambda: _traced(on_cpu, options),
    )
    if problems:
        raise InputError("\n".join(problems))


def _on_cpu(loaded: Loaded) -> Loaded:
    copy = loaded.clone()
    copy.module.to("cpu").eval()
    return copy


def _traced(loaded: Loaded, options: ExportStepOptions) -> None:
    if options.takes_model():
        check_source(loaded)
    else:
        traced(loaded, options)
