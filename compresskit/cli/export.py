"""The command `export`: a model written for another runtime, measured and compared there."""

from __future__ import annotations

import click

from ..core import ownership
from ..core.results import write_result
from ..pipeline.recipe import RecipeOptions
from ..quantization.options import ExportOptions
from .console import logger, stderr_console, validated
from .derive import SectionedCommand, given_values, options_of

_OWN = options_of(ExportOptions)
_SHARED = options_of(
    RecipeOptions,
    leave_out=("model", "output", "threads", "latency_batch", "latency_rounds", "device", "eval_limit", "eval_batch"),
)


def _export(model: str, output: str | None, force: bool, as_json: bool, quiet: bool, **values) -> None:
    options = validated(ExportOptions, given_values(_OWN, values), "export")
    recipe = validated(RecipeOptions, {"model": model, "device": "cpu", **given_values(_SHARED, values)}, "export")
    shown = f"runs/model.{options.format}" if output is None else output
    target = ownership.absolute(shown)
    from ..pipeline.fingerprints import named_paths

    inputs = [*named_paths(recipe.model_dump()), *named_paths(options.model_dump())]
    # weights of large models lie in a file of their own beside the graph, which names it
    for path in (target, target.with_name(f"{target.name}.data")):
        ownership.check_file(path, force=force, inputs=inputs)
    from ..core import files, locks
    from ..core.report import print_json, rows_table
    from ..pipeline.preflight import checked_export
    from ..quantization.lowering import export

    context = checked_export(recipe, options, target, logger(quiet))
    with locks.in_folder(target), locks.locked(target), files.replacing_file(target) as path:
        facts = export(context.original, options, context, path)
    if as_json:
        print_json({"model": model, "path": shown, **facts})
        return
    if not quiet:
        rows = [{"figure": name, "value": value} for name, value in facts.items()]
        stderr_console().print(rows_table(f"export: {model}", rows))
    write_result(shown)


export_command = SectionedCommand(
    "export",
    params=[
        click.Argument(["model"], metavar="MODEL"),
        *_OWN,
        *_SHARED,
        click.Option(["-o", "--output"], metavar="FILE", help="File to write.  [default: runs/model.FORMAT]"),
        click.Option(["-f", "--force"], is_flag=True, help="Replace an existing file."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the figures as JSON on stdout."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr."),
    ],
    callback=_export,
    no_args_is_help=True,
    help="Write a model as a graph for another runtime, run it there, and compare outputs, metric and latency.",
    epilog="compresskit export runs/int8 --data digits -o model.onnx\n"
    "compresskit export runs/int8 --format pt2 --runtime inductor -o model.pt2",
)
