"""Commands around files that leave: bench, predict, pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..core.reporting.results import write_prose, write_result
from ..export.options import ExportOptions
from ..pipeline.checks.names import check_names
from ..pipeline.inspection.bench_options import BenchOptions, PredictOptions
from ..pipeline.recipe import RecipeOptions
from .completion import Completed
from .console import logger, stderr_console, validated_together
from .derive import given_values, options_of
from .help import SectionedCommand

_RUN = ("model", "output", "latency_batch", "latency_rounds", "timings", "effort")
_TRAINING = ("task_loss", "task_loss_arg", "workers")
_DATA = ("data", "data_arg", "collate", "task", "metric", "metric_arg", "eval_limit", "eval_batch")
_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON on stdout.")
_QUIET = click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr.")

_BENCH = options_of(BenchOptions)
_BENCH_SHARED = options_of(RecipeOptions, leave_out=(*_RUN, *_TRAINING, "device", "threads"))


def _bench(models: tuple[str, ...], plot: str | None, force: bool, as_json: bool, quiet: bool, **values: Any) -> None:
    shared = {"model": models[0], **given_values(_BENCH_SHARED, values)}
    options, recipe = validated_together("bench", (BenchOptions, given_values(_BENCH, values)), (RecipeOptions, shared))
    for model in models:
        check_names(recipe.model_copy(update={"model": model}), files=True)
    from ..core.reporting.report import figures_tables, print_json
    from ..pipeline.inspection.bench_plot import check_plot, write_plot
    from ..pipeline.inspection.bench_table import bench_rows
    from ..pipeline.inspection.benching import bench

    if plot is not None:
        check_plot(plot, force=force)
    rows = bench(models, recipe, options, logger(quiet))
    if plot is not None:
        write_plot(plot, rows)
    if as_json:
        print_json(rows)
        return
    console = stderr_console()
    columns, cells = bench_rows(rows)
    for table in figures_tables("bench (* no other is better in everything)", columns, cells, console.width):
        console.print(table)
    for row in rows:
        if row["best"]:
            write_result(f"{row['model']} in {row['runtime']}")


bench_command = SectionedCommand(
    "bench",
    params=[
        click.Argument(["models"], metavar="MODEL...", nargs=-1, required=True, type=Completed("model")),
        *_BENCH,
        *_BENCH_SHARED,
        click.Option(["--plot"], metavar="FILE", help="Draw latency against the metric, or size (.png, .svg, .pdf)."),
        click.Option(["-f", "--force"], is_flag=True, help="Replace an existing plot."),
        _JSON,
        _QUIET,
    ],
    callback=_bench,
    common=("runtime", "data", "batch_size", "threads", "rounds", "cold_start", "eval_limit", "weights"),
    no_args_is_help=True,
    help="Measure models, artifacts and exported files side by side, in turn: latency, throughput, start, memory, "
    "size, and the metric. Rows marked * are on the Pareto front: no other is better in everything.",
    epilog="compresskit bench runs/pruned runs/int8 --data digits\n"
    "compresskit bench builtin:lenet5 --runtime eager --runtime onnxruntime --runtime openvino\n"
    "compresskit bench float.onnx int8.onnx int8.xml --batch-size 8 --plot bench.png",
)

_PREDICT = options_of(PredictOptions)
_PREDICT_SHARED = options_of(RecipeOptions, leave_out=(*_RUN, *_TRAINING, *_DATA))


def _predict(model: str, inputs: tuple[str, ...], as_json: bool, quiet: bool, **values: Any) -> None:
    shared = {"model": model, **given_values(_PREDICT_SHARED, values)}
    options, recipe = validated_together(
        "predict", (PredictOptions, given_values(_PREDICT, values)), (RecipeOptions, shared)
    )
    check_names(recipe, files=True)
    from ..core.reporting.report import print_json
    from ..pipeline.inspection.predicting import predict, predicted_line

    found = predict(inputs, recipe, options, logger(quiet))
    if as_json:
        print_json(found)
        return
    for one in found:
        write_prose(predicted_line(one))


predict_command = SectionedCommand(
    "predict",
    params=[
        click.Argument(["model"], metavar="MODEL", type=Completed("model")),
        click.Argument(["inputs"], metavar="INPUT...", nargs=-1, required=True, type=Completed("file")),
        *_PREDICT,
        *_PREDICT_SHARED,
        _JSON,
        _QUIET,
    ],
    callback=_predict,
    common=("top", "labels", "batch_size", "weights", "input", "model_arg", "source"),
    no_args_is_help=True,
    help="Run a model string, an artifact or an exported file on images, .npy arrays, .wav sounds or texts (files, or "
    "folders of them), and print classes by name with their shares, or values.",
    epilog="compresskit predict runs/int8 photo.jpg --labels names.txt\ncompresskit predict model.onnx photos/ --json\n"
    'compresskit predict runs/sentiment "A fine film."',
)

_EXPORT = options_of(ExportOptions, leave_out=("format", "runtime", "factored", "with_script", "with_past"))
_PACK_SHARED = options_of(RecipeOptions, leave_out=(*_RUN, *_TRAINING, "device", "threads"))


def _pack(model: str, output: str, force: bool, as_json: bool, quiet: bool, **values: Any) -> None:
    options, recipe = validated_together(
        "pack",
        (ExportOptions, {"with_script": True, **given_values(_EXPORT, values)}),
        (RecipeOptions, {"model": model, "device": "cpu", **given_values(_PACK_SHARED, values)}),
    )
    if not Path(model).suffix:  # else it says which files it takes
        check_names(recipe)
    from ..core.reporting.report import print_json
    from ..pipeline.packing import pack

    found = pack(recipe, options, output, force=force, log=logger(quiet))
    if as_json:
        print_json(found)
        return
    if not quiet:
        click.echo(f"{', '.join(found['files'])}; needs {', '.join(found['requirements'])}", err=True)
    write_result(output)


pack_command = SectionedCommand(
    "pack",
    params=[
        click.Argument(["model"], metavar="MODEL", type=Completed("model")),
        *_EXPORT,
        *_PACK_SHARED,
        click.Option(
            ["-o", "--output"], metavar="DIR", default="runs/packed", show_default=True, help="Folder to write."
        ),
        click.Option(["-f", "--force"], is_flag=True, help="Replace an existing folder of ours."),
        _JSON,
        _QUIET,
    ],
    callback=_pack,
    common=("data", "weights", "dynamic", "opset", "input", "source"),
    no_args_is_help=True,
    help="Write one folder that runs elsewhere: the model as ONNX, run.py that needs onnxruntime and NumPy (Pillow for "
    "images, tokenizers for texts), a check, a README, requirements.txt.",
    epilog="compresskit pack runs/int8 -o runs/packed\ncompresskit pack model.onnx -o runs/packed",
)
