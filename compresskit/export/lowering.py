"""Exporting a model to a file, running it in its runtime, and comparing it there with the model it came from."""

from __future__ import annotations

import importlib
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from compresskit.analysis.measure.latency import Quartiles
from compresskit.analysis.measure.macs import count_macs
from compresskit.core.errors import InputError, described
from compresskit.core.tensors.dtypes import cast, model_dtype
from compresskit.core.types import Inputs, Loaded, call, main_output
from compresskit.evaluation.metrics import Score
from compresskit.model.example_inputs import with_batch
from compresskit.training.context import Context

from ..quantization.kv_cache import float_cache
from ..quantization.layers.quantized_layer import quantized_layers
from .comparison import compare, wrong_outputs
from .exporters.export_program import DESCRIPTION
from .exporters.preprocessed import FromFloats, Preprocessed
from .exporters.traced import traced
from .folders.folder import model_card
from .folders.proof import named_inputs, own_output, prove
from .handover.description import description
from .handover.file_size import held_as_floats, size_notes
from .handover.label_file import read_labels
from .handover.runner_script import TOKENIZER, write_runner
from .integers.layer_table import integer_share, layer_rows
from .integers.same_runtime import Comparison, fastest, runs_apart, warnings_of
from .measures.beside_float import Around, contest, timed
from .measures.cold_start import cold_start
from .options import ExportOptions
from .other_sizes import check_sizes
from .runtimes.exported import Exported
from .runtimes.unpacked import unpacked_model
from .tables import EXPORTERS, RUNTIMES, files_beside

#: largest change of outputs, as a share of the largest, that rounding scales to float16 makes
_SCALES_OF_16_BITS = 1e-2
#: figures that a README beside the file repeats
_IN_README = ("file_bytes", "runtime", "runtime_version", "agreement", "largest_difference", "latency_ms", "threads")


def export(loaded: Loaded, options: ExportOptions, context: Context, out_path: str | Path) -> dict[str, Any]:
    """Export a model, run it in its runtime, and compare.

    Args:
        loaded: the model, quantized or not.
        options: format, runtime, what to measure.
        context: data and metric where there are any.
        out_path: the file to write.
    Returns:
        facts: file, bytes, runtime with version, agreement and largest difference against the model in eager
        PyTorch, latency against the same layers computing in float in the same runtime and in eager PyTorch, cold start
        and memory of a fresh process, the share of MACs in integers, and the metric in the runtime; `layers`, a row a
        layer with what it runs in there and why.
    Raises:
        InputError: if the model cannot be exported, or the runtime is not installed.
    """
    done = carry_out(loaded, options, context, Path(out_path))
    return done.facts | done.tables


class ExportResult(NamedTuple):
    """An exported model and its figures.

    Attributes:
        facts: as `export` returns them.
        notes: lines for the report, which stand in the facts, too.
        runner: the model in its runtime.
        score: the metric in the runtime, where there is data.
        tables: `layers` with what each runs in, and `layer_times` where those were taken.
    """

    facts: dict[str, Any]
    notes: list[str]
    runner: nn.Module
    score: Score | None
    tables: dict[str, list[dict[str, Any]]]


def carry_out(loaded: Loaded, options: ExportOptions, context: Context, path: Path) -> ExportResult:
    """Export a model, run it in its runtime, and compare; arguments and errors as of `export`."""
    with float_cache(loaded.module) as rounded:
        notes = ["keys and values are cached as the runtime does, not in kv_bits"] if rounded else []
        return _carry_out(loaded, options, context, path, notes)


def _carry_out(loaded: Loaded, options: ExportOptions, context: Context, path: Path, known: list[str]) -> ExportResult:
    check_batch(loaded, options)
    runtime = options.chosen_runtime()
    trace, program, proof, tables = None, None, dict[str, Any](), dict[str, list[dict[str, Any]]]()
    inputs = with_batch(loaded.example, options.batch_size)
    inputs = inputs if options.takes_model() else cast(inputs, torch.float32)
    apart, kept = options.preprocess == "outside" and runs_apart(loaded.module, options), None
    if options.keep == "fastest" and apart:
        kept = fastest(loaded, inputs, options)
        loaded = replace(loaded, module=kept.module)
        tables["layer_times"] = kept.table
    if options.takes_model():
        notes, proof = write_model(loaded, options, path)
        notes = [*known, *notes]
    else:
        trace = traced(loaded, options, context.data)
        program = trace.program
        labels = read_labels(options.labels) if options.labels else []
        about = description(loaded, context, options.preprocess, runtime, labels)
        program.graph_module.meta[DESCRIPTION] = about
        notes = [*known, *computes_in(loaded.module), *held_as_floats(loaded, program, options)]
        notes += EXPORTERS.load(options.format)(program, path, options) or []
        notes += size_notes(loaded, program, bytes_on_disk(path), options)
    example = inputs if trace is None else trace.inputs(inputs)
    exported = Exported(loaded.module.eval(), program, path, example, options.threads)
    runner = _runner(runtime, exported)
    facts: dict[str, Any] = {
        "file": path.name,
        "format": options.format,
        "file_bytes": bytes_on_disk(path),
        "size_label": "stored",
        "runtime": runtime,
        "runtime_version": runtime_version(runtime),
        "quantized_layers": sum(bool(layer.spec.parameters) for layer in quantized_layers(loaded.module).values()),
        **proof,
    }
    reference, around = loaded.module, None
    timed_runner, timed_inputs = runner, inputs
    if trace is not None and isinstance(trace.module, Preprocessed):
        wrapper = trace.module
        timed_inputs, around = wrapper.as_bytes(inputs), wrapper.around
        reference, runner = FromFloats(wrapper, wrapper), FromFloats(runner, wrapper)
    facts |= compare(reference, runner, comparison_batches(loaded, options, context))
    if not facts["compared_samples"]:
        notes.append("no box was found in what was compared: give --data with boxes, or trained weights")
    notes += wrong_outputs(facts, rounds=bool(facts["quantized_layers"]))
    if trace is not None:
        facts |= check_sizes(trace, timed_runner, facts)
    facts |= _latency(loaded, timed_runner, timed_inputs, options, around)
    facts |= _fresh(path, runtime, example, options)
    if kept is not None:
        notes.append(kept.note)
        facts["layers_in_float"] = kept.in_float
    if apart:
        rows = layer_rows(exported, runner, options)
        share = integer_share(rows)
        if share is not None:
            tables["layers"] = rows
            facts["integer_macs"] = share
        if options.rounds and runs_apart(loaded.module, options):
            speedup = Quartiles(facts["speedup_low"], facts["speedup"], facts["speedup_high"])
            notes += warnings_of(Comparison(facts["latency_ms"], facts["float_latency_ms"], speedup), runtime)
    score = None
    if context.data is not None and context.metric is not None:
        batches = context.data.batches("test", batch_size=context.eval_batch, limit=context.eval_limit)
        score = context.metric(runner, batches)
        facts[f"{context.metric.name}_in_runtime"] = score.value
    if options.writes_folder():
        (path / "README.md").write_text(model_card(loaded, facts), encoding="utf-8")
    if options.with_script and program is not None:
        figures = {name: facts[name] for name in _IN_README if name in facts}
        meta = {**program.graph_module.meta[DESCRIPTION], "figures": figures}
        write_runner(path.parent, path.name, meta, tokenizer=loaded.companions.get(TOKENIZER))
    return ExportResult(facts | ({"notes": "; ".join(notes)} if notes else {}), notes, runner, score, tables)


def write_model(loaded: Loaded, options: ExportOptions, path: Path) -> tuple[list[str], dict[str, Any]]:
    """Write a model in a format that takes the model itself; a folder is loaded again in a fresh process.

    Returns:
        notes, and facts of the proof.
    Raises:
        InputError: if the format cannot hold the model, or what was written computes something else.
    """
    if not options.writes_folder():
        return list(EXPORTERS.load(options.format)(loaded, path, options) or []), {}
    path.mkdir(exist_ok=True)
    notes = list(EXPORTERS.load(options.format)(loaded, path, options) or [])
    if EXPORTERS.attribute(options.format, "loads", "") == "unpacked":
        return notes, {"unpacked_difference": unpacked_difference(loaded, path)}
    (proof,) = prove([(path, named_inputs(loaded), own_output(loaded))], new_tokens=1)
    reason = proof.reason(model_dtype(loaded.module) or torch.float32)
    if reason:
        raise InputError(f"model {loaded.name!r}: the folder, read in a fresh process, is of no use: {reason}")
    if proof.generate_error:
        notes.append(f"generate() fails with the folder, in a fresh process: {proof.generate_error}")
    facts = {
        "loaded_by": proof.loader,
        "fresh_process_difference": proof.difference,
        "parameters": sum(parameter.numel() for parameter in loaded.module.parameters()),
        "macs": count_macs(loaded.module, loaded.example).total,
    }
    return notes, facts


@torch.no_grad()
def unpacked_difference(loaded: Loaded, path: Path) -> float:
    """The largest difference of the first output when what a packed folder holds is unpacked.

    Raises:
        InputError: if it is more than scales of 16 bits make.
    """
    wanted = own_output(loaded)
    found = main_output(unpacked_model(path)(**named_inputs(loaded))).float()
    difference = float((found - wanted).abs().max())
    if not difference <= _SCALES_OF_16_BITS * float(wanted.abs().max()):
        raise InputError(
            f"model {loaded.name!r}: the folder, unpacked, is another model: its first output differs by "
            f"{difference:.2g}, and the largest is {float(wanted.abs().max()):.2g}"
        )
    return difference


def _runner(runtime: str, exported: Exported) -> nn.Module:
    """The exported model ready to be called, its first output looked at."""
    runner = RUNTIMES.load(runtime)(exported)
    with torch.no_grad():
        output = call(runner, exported.example)
    try:
        main_output(output)
    except TypeError as error:
        raise InputError(
            f"runtime {runtime!r}: the module's forward returned {type(output).__name__}, not a tensor"
        ) from error
    return runner


@torch.no_grad()
def check_batch(loaded: Loaded, options: ExportOptions) -> None:
    """Raises InputError if the model does not take the batch size that the options name."""
    try:
        call(loaded.module.eval(), with_batch(loaded.example, options.batch_size))
    except Exception as error:  # anybody's code
        raise InputError(
            f"model {loaded.name!r} does not take a batch of {options.batch_size}: {described(error)}; "
            "give a size that it takes with --batch-size"
        ) from error


def computes_in(module: nn.Module) -> list[str]:
    """A note where the model computes in another type than its graph."""
    dtype = model_dtype(module)
    if dtype in (None, torch.float32):
        return []
    return [f"the graph computes in float32, the model in {str(dtype).removeprefix('torch.')}"]


def comparison_batches(loaded: Loaded, options: ExportOptions, context: Context) -> list[Inputs]:
    """Inputs to compare on: test data where there is any, else the example's own values."""
    size = options.batch_size
    if context.data is None:
        return [cast(with_batch(loaded.example, size), torch.float32)]
    batches = context.data.batches("test", batch_size=size, limit=max(options.samples // size, 1) * size)
    return [inputs for inputs, _ in batches]


def _latency(
    loaded: Loaded, runner: nn.Module, inputs: Inputs, options: ExportOptions, around: Around | None
) -> dict[str, Any]:
    simulated = RUNTIMES.attribute(options.chosen_runtime(), "simulated", False)
    found: dict[str, Any] = {}
    if options.rounds:
        with contest(loaded, runner, options, around=around) as taking_part:
            found = timed(taking_part, inputs, options)
    return {
        "latency_label": "simulated" if simulated else "executed",
        **found,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "processor": platform.processor() or platform.machine(),
    }


def _fresh(path: Path, runtime: str, inputs: Inputs, options: ExportOptions) -> dict[str, Any]:
    """What a fresh process takes to load the file and run it once; nothing where that is not measured."""
    if options.cold_start == "skip" or runtime == "eager":
        return {}
    found = cold_start(str(path), runtime, inputs, options.threads)
    return found.record() if not isinstance(found, str) else {"cold_start": found}


def bytes_on_disk(path: Path) -> int:
    """Bytes of a folder, or of a file with those beside it."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in (path, *files_beside(path)) if file.exists())


def runtime_version(runtime: str) -> str:
    """The version of a runtime's library; "unknown" where it says none."""
    module = RUNTIMES.attribute(runtime, "module", "")
    if not module:
        return "unknown"
    try:
        return str(getattr(importlib.import_module(module), "__version__", "") or version(module))
    except PackageNotFoundError:
        return "unknown"
