"""The command `export`: a model written for another runtime, measured and compared there."""

from __future__ import annotations

import os

import click

from ..core.reporting.results import write_result
from ..export.options import ExportOptions
from ..export.tables import format_asked_for, format_named
from ..pipeline.checks.names import check_names
from ..pipeline.recipe import RecipeOptions
from .completion import Completed
from .console import logger, stderr_console, validated_together
from .derive import given_values, options_of
from .help import SectionedCommand

#: what --layers shows, and JSON always has
_TABLES = ("layers", "layer_times")
_OWN = options_of(ExportOptions)
_SHARED = options_of(
    RecipeOptions,
    leave_out=("model", "output", "threads", "latency_batch", "latency_rounds", "device", "eval_limit", "eval_batch"),
)


def _export(model: str, output: str | None, force: bool, as_json: bool, layers: bool, quiet: bool, **values) -> None:
    given = given_values(_OWN, values)
    if "format" not in given and output is not None:
        # what stands there and may not be replaced is the graver mistake, and told later
        named = format_named(output) if os.path.lexists(output) else format_asked_for(output)
        given |= {} if named is None else {"format": named}
    options, recipe = validated_together(
        "export",
        (ExportOptions, given),
        (RecipeOptions, {"model": model, "device": "cpu", **given_values(_SHARED, values)}),
    )
    check_names(recipe)
    from ..core.reporting.report import print_json, rows_table
    from ..pipeline.exporting import export_file

    shown = f"runs/model{options.suffix()}" if output is None else output
    found = export_file(recipe, options, shown, force=force, log=logger(quiet))
    if as_json:
        print_json(found)
        return
    if not quiet:
        apart = ("model", "path", *_TABLES)
        rows = [{"figure": name, "value": value} for name, value in found.items() if name not in apart]
        console = stderr_console()
        console.print(rows_table(f"export: {model}", rows))
        for name in _TABLES if layers else ():
            if found.get(name):
                console.print(rows_table(f"{name.replace('_', ' ')} in {found['runtime']}", found[name]))
    write_result(shown)


export_command = SectionedCommand(
    "export",
    params=[
        click.Argument(["model"], metavar="MODEL", type=Completed("model")),
        *_OWN,
        *_SHARED,
        click.Option(
            ["-o", "--output"],
            metavar="FILE",
            help="File to write; its ending says the format where --format does not.  [default: runs/model.FORMAT]",
        ),
        click.Option(["-f", "--force"], is_flag=True, help="Replace an existing file."),
        click.Option(["--layers"], is_flag=True, help="List what each layer runs in, and why."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the figures as JSON on stdout."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr."),
    ],
    callback=_export,
    common=("data", "weights", "input", "format", "runtime", "opset", "data_arg", "source"),
    no_args_is_help=True,
    help="Write a model as a graph for another runtime, run it there, and compare outputs, metric and latency.",
    epilog="compresskit export runs/int8 --data digits -o model.onnx\n"
    "compresskit export runs/int8 --format pt2 --runtime inductor -o model.pt2",
)
