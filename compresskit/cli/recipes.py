"""Commands around recipes: run, init, schema."""

from __future__ import annotations

from typing import Any

import click

from ..artifact.disk import ownership
from ..core.errors import InputError
from ..core.reporting.results import write_result
from ..pipeline.checks.names import refuse_early
from ..pipeline.recipe import json_schema, read_recipe
from .console import Shown, shown_options, stderr_console
from .help import SectionedCommand
from .technique import execute, output_path


@click.command(
    "run",
    cls=SectionedCommand,
    no_args_is_help=True,
    epilog="compresskit run configs/quickstart.yaml\n"
    "compresskit run recipe.yaml --set steps.0.prune.target_macs=0.6 --dry-run\n"
    "compresskit run recipe.yaml --resume",
)
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the recipe, e.g. steps.0.prune.target_macs=0.6; repeatable.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Validate everything, resolve model and data, print the plan and predicted MACs; write nothing.",
)
@click.option("--resume", is_flag=True, help="Keep finished steps whose inputs and options are unchanged.")
@click.option("-o", "--output", metavar="DIR", help="Directory of the final artifact; default: the recipe's output.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
def run_command(
    recipe: str,
    assignments: tuple[str, ...],
    dry_run: bool,
    resume: bool,
    output: str | None,
    force: bool,
    **shown_values: Any,
) -> None:
    """Run a recipe: load its model, apply its steps in order, measure each, write the final artifact.

    Finished steps are kept in OUTPUT.steps, so that --resume repeats only what changed.
    """
    shown = Shown(**shown_values)
    loaded = read_recipe(recipe, assignments)
    named = loaded.options.output if output is None else output
    target = None if named is None else output_path(named)
    if dry_run:
        refuse_early(loaded, target, replaces=True)
        from ..pipeline.plan import make_plan, show_plan

        plan = make_plan(loaded, shown.log(), output=target)
        show_plan(plan, stderr_console(), shown.as_json)
        return
    if target is None:
        raise InputError(f"recipe {recipe!r} names no output; add output: DIR, or give -o DIR")
    execute(loaded, target, shown, force=force, resume=resume, keep_steps=True)


run_command.params += shown_options()


@click.command(
    "schema",
    cls=SectionedCommand,
    epilog="compresskit schema > recipe.schema.json\ncompresskit schema --markdown > docs/options.md\n"
    "compresskit schema --glossary > docs/glossary.md\ncompresskit schema --stub > compresskit/__init__.pyi\n"
    "compresskit schema --output bench",
)
@click.option("--markdown", is_flag=True, help="The options of every technique as tables.")
@click.option("--glossary", is_flag=True, help="The words of the project as a table.")
@click.option("--stub", is_flag=True, help="The stub of the Python API, for type checkers.")
@click.option("--output", "printed", metavar="NAME", help="The JSON schema of what --json prints: report, plan, ...")
def schema_command(markdown: bool, glossary: bool, stub: bool, printed: str | None) -> None:
    """Print the recipe's JSON schema, for editors that complete and check YAML."""
    import json

    from ..api.stub import stub_text
    from ..pipeline.reference.docs import options_markdown
    from ..pipeline.reference.glossary import glossary_markdown
    from ..pipeline.reference.outputs import output_schema

    if printed is not None:
        write_result(json.dumps(output_schema(printed), indent=2))
        return
    texts = {"--markdown": options_markdown, "--glossary": glossary_markdown, "--stub": stub_text}
    given = [flag for flag, asked in zip(texts, (markdown, glossary, stub), strict=True) if asked]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} are {len(given)} texts; give one of them")
    write_result(texts[given[0]]() if given else json.dumps(json_schema(), indent=2) + "\n", end="")


@click.command(
    "init",
    cls=SectionedCommand,
    no_args_is_help=True,
    epilog="compresskit init builtin:digits_cnn --data digits -o recipe.yaml",
)
@click.argument("model", metavar="MODEL")
@click.option("--data", default="digits", show_default=True, help="Data string.")
@click.option("--weights", help="Weights file.")
@click.option(
    "-o",
    "--output",
    "path",
    default="recipe.yaml",
    show_default=True,
    metavar="FILE",
    help="File to write; - for stdout.",
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing file.")
def init_command(model: str, data: str, weights: str | None, path: str, force: bool) -> None:
    """Write a recipe for a model and data, every usual option in it with its meaning as a comment."""
    from ..artifact.disk import files
    from ..model.strings import check_named
    from ..pipeline.reference.docs import starter_recipe
    from ..pipeline.resume.fingerprints import named_paths

    check_named(model)
    text = starter_recipe(model, data, weights)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("a recipe holds UTF-8 text, and one of the names given is none; rename that file") from error
    if path == "-":
        write_result(text, end="")
        return
    target = ownership.absolute(path)
    ownership.check_file(target, force=force, inputs=named_paths({"model": model, "data": data, "weights": weights}))
    with files.replacing_file(target) as temporary:
        temporary.write_text(text)
    write_result(path)
