"""Models, artifacts and exported files side by side: latency in turn, throughput, start, memory, size, the metric."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...analysis.measure.latency import quartiles
from ...artifact.source import load_model, with_example
from ...core.errors import InputError, require
from ...core.tensors.dtypes import cast
from ...core.types import Inputs, Loaded, call
from ...export.integers.same_runtime import in_runtime
from ...export.lowering import bytes_on_disk, runtime_version
from ...export.measures.beside_float import in_turn
from ...export.measures.cold_start import cold_start
from ...export.opening import format_of, is_file, open_file
from ...export.options import ExportOptions
from ...export.runtimes.exported import Exported
from ...export.tables import EXPORTERS, RUNTIMES, reads
from ...model.example_inputs import with_batch
from ..opening import open_context
from ..recipe import RecipeOptions
from .bench_options import BenchOptions


@dataclass
class _Entry:
    """A row in the making.

    Attributes:
        name: as it was given.
        runtime: where it runs.
        loaded: what was opened; its module runs there.
        module: what is timed.
        file: the file that runs; None for eager PyTorch.
        given: how a fresh process loads it in eager PyTorch.
    """

    name: str
    runtime: str
    loaded: Loaded
    module: nn.Module
    file: Path | None
    given: dict[str, Any]


def bench(
    models: Sequence[str], recipe: RecipeOptions, options: BenchOptions, log: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Measure models and files side by side, in one process, in turn.

    Args:
        models: model strings, artifacts and exported files.
        recipe: names data and metric, and how models are opened.
        options: runtimes, batch size, threads.
        log: prints a line of progress.
    Returns:
        a row for each model and runtime: name, runtime with version, latency (for each batch size: low_ms, median_ms,
        high_ms, throughput), cold_start_ms, peak_memory_bytes, size_bytes, metric, and whether it is on the Pareto
        front of latency at the batch size asked for, size, and the metric where there is data; a note where a quantized
        file was written for another runtime.
    Raises:
        InputError: naming the first model that does not open, or whose inputs are other ones than the first's.
    """
    if not models:
        raise InputError("bench needs a model, e.g. compresskit bench builtin:lenet5 runs/int8 model.onnx")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        entries = [
            entry
            for number, model in enumerate(models)
            for entry in _entries(model, recipe, options, folder / str(number), log)
        ]
        rows = [_row(entry, options) for entry in entries]
        metrics = {id(entry): _metric(entry, recipe, log) for entry in entries}  # first: not all may take the data
        for size in dict.fromkeys([1, options.batch_size]):
            inputs = [with_batch(entry.loaded.example, size) for entry in entries]
            for entry, given in zip(entries, inputs, strict=True):
                _check_runs(entry, given, size)
            log(f"timing {len(entries)} in turn at batch {size}")
            for row, times in zip(
                rows, in_turn([entry.module for entry in entries], inputs, options.rounds, options.threads), strict=True
            ):
                low, median, high = quartiles(times.rounds_ms)
                low, high = max(low, min(times.rounds_ms)), min(high, max(times.rounds_ms))  # of two or three rounds
                row["latency"].append(
                    {"batch_size": size, "low_ms": low, "median_ms": median, "high_ms": high,
                     "per_second": 1e3 * size / median}
                )  # fmt: skip
        for row, entry in zip(rows, entries, strict=True):
            row["metric"] = metrics[id(entry)]
            if options.cold_start == "measure":
                log(f"starting {entry.name} in a fresh process ({entry.runtime})")
                row |= _started(entry, options)
    _mark_best(rows)
    for row, entry in zip(rows, entries, strict=True):
        if note := _written_for_another(entry):
            row["note"] = note
            log(note)
    return rows


def _written_for_another(entry: _Entry) -> str:
    """One line where the quantizers of a file lie where another runtime merges them; else ""."""
    about = dict(getattr(entry.module, "about", {})) if entry.file is not None and not entry.given else {}
    written_for = about.get("runtime", entry.runtime)
    if written_for == entry.runtime or not any("quantized" in str(edit) for edit in about.get("edits", ())):
        return ""
    return (
        f"{entry.name} was written for {written_for}, whose operators its quantizers are placed for; in "
        f"{entry.runtime} they may compute in float: write it anew with export --runtime {entry.runtime}"
    )


def _entries(
    model: str, recipe: RecipeOptions, options: BenchOptions, folder: Path, log: Callable[[str], None]
) -> list[_Entry]:
    log(f"opening {model}")
    opened: dict[str, Any] = {"inputs": list(recipe.input) or None, "trust_source": recipe.trust_source}
    if is_file(model):
        form = format_of(model)
        own = EXPORTERS.attribute(form, "runtime", "eager")
        chosen = [name for name in options.runtime if RUNTIMES.attribute(name, "reads", ()) and reads(name, form)]
        found = []
        for runtime in dict.fromkeys(chosen or [own]):
            loaded = open_file(model, runtime=runtime, threads=options.threads, **opened)
            found.append(_Entry(model, runtime, loaded, loaded.module, Path(model), {}))
        return found
    given: dict[str, Any] = {
        "weights": recipe.weights, "model_args": dict(recipe.model_arg), "source": recipe.source, "seed": recipe.seed,
        **opened,
    }  # fmt: skip
    if Path(model).is_dir():
        given |= {"model_args": None, "inputs": None, "weights": None}
    loaded = with_example(load_model(model, **given), _data_example(recipe, model))
    wanted = dict.fromkeys("eager" if name == "auto" else name for name in options.runtime or ["eager"])
    return [_in(model, name, loaded, given, options, folder) for name in wanted]


def _data_example(recipe: RecipeOptions, model: str) -> Inputs | None:
    if not recipe.data:
        return None
    data = open_context(recipe.model_copy(update={"model": model, "device": "cpu"})).data
    return None if data is None else data.example


def _in(model: str, runtime: str, loaded: Loaded, given: dict[str, Any], options: BenchOptions, folder: Path) -> _Entry:
    """A model in a runtime, written to a file where that reads files."""
    formats = RUNTIMES.attribute(runtime, "reads", ())
    if not formats:
        exported = Exported(loaded.module, None, Path(model), loaded.example, options.threads)
        return _Entry(model, runtime, loaded, RUNTIMES.load(runtime)(exported), None, given)
    form = next((name for name in formats if EXPORTERS.attribute(name, "takes", "program") == "program"), None)
    if form is None:
        raise InputError(f"bench: runtime {runtime!r} reads no graphs; leave it out")
    chosen = ExportOptions(format=form, runtime=runtime, threads=options.threads, batch_size=options.batch_size)
    for module, extra in chosen.packages().items():
        require(module, extra)
    folder.mkdir(exist_ok=True)
    path = folder / f"model-{runtime}{chosen.suffix()}"
    inputs = cast(with_batch(loaded.example, options.batch_size), torch.float32)
    return _Entry(model, runtime, loaded, in_runtime(loaded, inputs, chosen, path), path, given)


def _check_runs(entry: _Entry, inputs: Inputs, size: int) -> None:
    try:
        call(entry.module.eval(), inputs)
    except InputError:
        raise
    except Exception as error:  # a runtime's own
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"model {entry.name!r} does not run a batch of {size} in {entry.runtime}: {line}; give a size that it "
            "takes with --batch-size, or inputs with --input"
        ) from error


def _row(entry: _Entry, options: BenchOptions) -> dict[str, Any]:
    return {
        "model": entry.name,
        "runtime": entry.runtime,
        "runtime_version": runtime_version(entry.runtime),
        "threads": options.threads,
        "size_bytes": _size(entry),
        "latency": [],
    }


def _size(entry: _Entry) -> int | None:
    if entry.file is not None and entry.file.exists():
        return bytes_on_disk(entry.file)
    weights = Path(entry.name) / "model.safetensors"
    if weights.is_file():
        return weights.stat().st_size
    tensors = {id(one): one for one in [*entry.module.parameters(), *entry.module.buffers()]}
    return sum(one.numel() * one.element_size() for one in tensors.values()) or None


def _metric(entry: _Entry, recipe: RecipeOptions, log: Callable[[str], None]) -> dict[str, Any] | None:
    if not recipe.data:
        return None
    log(f"judging {entry.name} ({entry.runtime})")
    update = {"model": entry.name, "device": "cpu"}
    context = open_context(recipe.model_copy(update=update), opener=lambda _: entry.loaded)
    if context.data is None or context.metric is None:
        return None
    batches = context.data.batches("test", batch_size=context.eval_batch, limit=recipe.eval_limit)
    score = context.metric(entry.module, batches)
    return {"name": context.metric.name, **asdict(score), "higher_is_better": context.metric.higher_is_better}


def _started(entry: _Entry, options: BenchOptions) -> dict[str, Any]:
    model = entry.name if entry.file is None else str(entry.file)
    inputs = with_batch(entry.loaded.example, 1)
    found = cold_start(model, entry.runtime, inputs, options.threads, entry.given)
    if isinstance(found, str):
        return {"cold_start_ms": None, "peak_memory_bytes": None, "cold_start_note": found}
    return found.record()


def _mark_best(rows: list[dict[str, Any]]) -> None:
    """Mark rows that no other row beats in everything: latency at the batch asked for, size, and the metric."""
    points = [_aims(row) for row in rows]
    for row, point in zip(rows, points, strict=True):
        row["best"] = not any(_beats(other, point) for other in points)


def _aims(row: dict[str, Any]) -> list[float]:
    """What counts of a row, each the less the better."""
    worst = float("inf")
    found = [row["latency"][-1]["median_ms"], worst if row["size_bytes"] is None else row["size_bytes"]]
    metric = row.get("metric")
    return [*found, *([-metric["value"] if metric["higher_is_better"] else metric["value"]] if metric else [])]


def _beats(other: list[float], point: list[float]) -> bool:
    return all(a <= b for a, b in zip(other, point, strict=True)) and other != point
