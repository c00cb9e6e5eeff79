"""One command a technique, made from its row: flags from its options model, a one-step recipe underneath."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ..artifact.disk import ownership
from ..core.reporting.results import result_stream, write_prose, write_result
from ..pipeline.checks.names import refuse_early
from ..pipeline.recipe import Recipe, RecipeOptions, Step
from ..pipeline.techniques import TECHNIQUES
from .completion import Completed
from .console import Shown, common_options, stderr_console, validated_together
from .derive import given_values, options_of
from .help import SectionedCommand
from .process import interruption_says, resuming


def technique_command(name: str) -> click.Command:
    """The command of a row of TECHNIQUES."""
    technique = TECHNIQUES[name]
    own = options_of(technique.options_model())
    shared = options_of(RecipeOptions, leave_out=("model", "output"))

    def callback(model: str, output: str | None, force: bool, resume: bool, dry_run: bool, **values: Any) -> None:
        shown = Shown(**{field.name: values.pop(field.name) for field in fields(Shown)})
        named = {"model": model, **({} if output is None else {"output": output})}
        options, recipe_options = validated_together(
            name,
            (technique.options_model(), given_values(own, values)),
            (RecipeOptions, {**named, **given_values(shared, values)}),
        )
        recipe = Recipe(recipe_options, (Step(name, options),))
        target = output_path(_output(name) if output is None else output)
        if dry_run:
            refuse_early(recipe, target, replaces=True)
            from ..pipeline.plan import make_plan, show_plan

            show_plan(make_plan(recipe, shown.log(), output=target), stderr_console(), shown.as_json)
            return
        if options.prints_only():
            refuse_early(recipe, None)
            show(recipe, shown)
            return
        execute(recipe, target, shown, force=force, resume=resume)

    return SectionedCommand(
        name,
        params=[
            click.Argument(["model"], metavar="MODEL", type=Completed("model")),
            *own,
            *shared,
            click.Option(
                ["-o", "--output"],
                metavar="DIR",
                help=f"Directory to write the artifact to.  [default: {_output(name)}]",
            ),
            click.Option(
                ["--dry-run"], is_flag=True, help="Check all, print the plan, predicted MACs and time; write nothing."
            ),
            *common_options(),
        ],
        callback=callback,
        short_help=technique.summary,
        epilog=f"compresskit {technique.example}",
        common=technique.common,
        help=f"{technique.summary}\n\nMODEL is torchvision:NAME, timm:NAME, hf:DIR_OR_ID, builtin:NAME, "
        "package.module:factory, path/net.py:factory, or an artifact directory.",
        no_args_is_help=True,
    )


def _output(name: str) -> str:
    """Where a command's artifact goes if nothing is said."""
    return f"runs/{name}"


def output_path(given: str) -> Path:
    """An output as it is given.

    Raises:
        InputError: if it names nothing that can be written.
    """
    ownership.absolute(given)
    return Path(given)


def show(recipe: Recipe, shown: Shown) -> None:
    """Print what a one-step recipe finds out about its model; nothing is measured or written."""
    from rich.console import Console

    from ..core.reporting.report import print_json, rows_table
    from ..pipeline.opening import open_context
    from ..pipeline.runner import inspect_step

    found = inspect_step(recipe.steps[0], open_context(recipe.options, shown.log()))
    if shown.as_json:
        print_json(found)
        return
    console = Console(file=result_stream(), emoji=False, width=None if result_stream().isatty() else 160)
    for title, rows in found["tables"].items():
        console.print(rows_table(title, rows, console.width))
    for note in found["notes"]:
        write_prose(note)


def execute(recipe: Recipe, output: Path, shown: Shown, *, force: bool, resume: bool, keep_steps: bool = False) -> None:
    """Run a recipe and print its report."""
    refuse_early(recipe, ownership.absolute(output), replaces=force or resume)
    from ..core import distributed
    from ..core.reporting.report import print_json, show_report
    from ..pipeline import runner

    task = runner.Run(recipe, output, force, resume, runner.command_line(), shown.log(), keep_steps)
    with interruption_says(f"go on with: {resuming(task.command)}"):
        report = runner.run(task)
    if not distributed.is_main():
        return
    if shown.json_lines:
        write_result(json.dumps({"event": "report", "report": report}, default=str))
    elif shown.as_json:
        print_json(report)
    else:
        if shown.people():
            show_report(report, stderr_console())
        write_result(str(output))
