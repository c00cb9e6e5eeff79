"""Commands that look and change nothing: inspect, diff, verify, doctor."""

from __future__ import annotations

import click

from ..core.costs import cost_of, names
from ..core.errors import GuardMissed
from ..core.reporting.results import write_prose, write_result
from ..pipeline.checks.names import check_names
from ..pipeline.recipe import MOST_LATENCY_ROUNDS, RecipeOptions
from .completion import Completed
from .console import logger, stderr_console, validated
from .derive import given_values, options_of
from .help import SectionedCommand

_MODEL_OPTIONS = options_of(
    RecipeOptions,
    leave_out=(
        "model",
        "output",
        "task",
        "metric",
        "metric_arg",
        "task_loss_arg",
        "eval_limit",
        "eval_batch",
        "workers",
        "latency_batch",
        "latency_rounds",
        "device",
        "threads",
    ),
)
_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON on stdout.")


def _load(model: str, values: dict):
    given = given_values(_MODEL_OPTIONS, values)
    options = check_names(validated(RecipeOptions, {"model": model, "device": "cpu", **given}, "inspect"))
    from ..pipeline.opening import open_context

    return open_context(options, logger(False)).original


def _inspect(model: str, as_json: bool, **values) -> None:
    loaded = _load(model, values)
    from ..core.reporting.report import print_json, rows_table
    from ..pipeline.inspection.looking import inspect_model

    found = inspect_model(loaded)
    if as_json:
        print_json(found)
        return
    console = stderr_console()
    console.print(rows_table(f"{model}", found["layers"], console.width))
    shown = [cost for cost in map(cost_of, names()) if cost.figure in found and not cost.modelled]
    measured = {cost: found[cost.figure] for cost in shown}
    clauses = [
        f"{cost.noun} not measured" if figure is None else cost.says.format(cost.shown(figure))
        for cost, figure in measured.items()
    ]
    write_prose(f"{', '.join(clauses)}; {found['edits']} edits")
    if found["macs_leave_out"]:
        click.echo(f"MACs leave out {', '.join(found['macs_leave_out'])}: operations of unknown cost", err=True)


inspect_command = SectionedCommand(
    "inspect",
    params=[click.Argument(["model"], metavar="MODEL", type=Completed("model")), *_MODEL_OPTIONS, _JSON],
    callback=_inspect,
    common=("weights", "model_arg", "input", "data", "trust_source"),
    no_args_is_help=True,
    help="Print layers, shapes, parameters, MACs, sizes, and which technique applies to each layer.",
    epilog="compresskit inspect torchvision:resnet18\ncompresskit inspect runs/pruned --json",
)


_EVALUATED = options_of(RecipeOptions, leave_out=("model", "output", "latency_batch", "latency_rounds", "timings"))


def _evaluate(model: str, as_json: bool, quiet: bool, kv_bits: int | None, **values) -> None:
    options = validated(RecipeOptions, {"model": model, **given_values(_EVALUATED, values)}, "evaluate")
    check_names(options, files=True)
    from ..core.reporting.report import print_json
    from ..core.reporting.report_figures import metric_text
    from ..pipeline.inspection.evaluating import evaluate_model

    found = evaluate_model(options, logger(quiet), kv_bits=kv_bits)
    if as_json:
        print_json(found)
        return
    metric = found["metric"]
    write_prose(f"{metric['name']} {metric_text(metric)} on {metric['samples']:,} examples (95 % interval)")


evaluate_command = SectionedCommand(
    "evaluate",
    params=[
        click.Argument(["model"], metavar="MODEL", type=Completed("model")),
        *_EVALUATED,
        click.Option(
            ["--kv-bits"],
            type=click.IntRange(2, 8),
            help="Bits of the keys and values that a causal transformers model caches; simulated.",
        ),
        _JSON,
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr."),
    ],
    callback=_evaluate,
    common=("data", "weights", "task", "metric", "eval_limit", "data_arg", "model_arg", "source"),
    no_args_is_help=True,
    help="Judge a model on the test split of data: the metric with its 95 % interval. Nothing is changed or written.",
    epilog="compresskit evaluate runs/int8 --data imagefolder:photos\n"
    "compresskit evaluate torchvision:resnet18 --weights resnet18.pth --data imagefolder:photos --metric top5 --json",
)


@click.command("diff", cls=SectionedCommand, no_args_is_help=True, epilog="compresskit diff runs/base runs/pruned")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--latency-rounds", default=8, show_default=True, type=click.IntRange(0, MOST_LATENCY_ROUNDS),
    help="A/B rounds; 0 leaves latency out.",
)  # fmt: skip
@click.option("--trust-source", is_flag=True, help="Run the user code that an artifact carries, or read a .pt2.")
@click.option("--source", help="The user code an artifact was made from, named again.")
@click.option("--input", "inputs", multiple=True, help="Example input of models that bring none, as in inspect.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def diff_command(
    first: str, second: str, latency_rounds: int, trust_source: bool, source: str | None, inputs: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Compare two models (any model strings): layers that differ, edits, and measured figures side by side."""
    from ..artifact.source import brings_example, load_model, with_example
    from ..core.reporting.report import print_json, rows_table
    from ..pipeline.inspection.looking import diff_models

    loaded = []
    for string in (first, second):
        given = None if brings_example(string) else list(inputs)
        loaded.append(with_example(load_model(string, inputs=given, trust_source=trust_source, source=source), None))
    found = diff_models(loaded[0], loaded[1], first, second, latency_rounds)
    if as_json:
        print_json(found)
        return
    console = stderr_console()
    console.print(
        rows_table(f"a: {first}   b: {second}", found["layers"])
        if found["layers"]
        else "all layers have the same shape"
    )
    console.print(rows_table("figures", found["figures"]))
    edits = found["edits"]
    write_prose(f"{len(found['layers'])} layers differ; {len(edits['a'])} and {len(edits['b'])} edits")


@click.command(
    "compare",
    cls=SectionedCommand,
    no_args_is_help=True,
    epilog="compresskit compare runs/pruned runs/int8\ncompresskit compare runs/* -o runs.html",
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=Completed("file"))
@click.option("-o", "--output", metavar="FILE", help="Write them as a page, too (.html).")
@click.option("-f", "--force", is_flag=True, help="Replace an existing page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def compare_command(runs: tuple[str, ...], output: str | None, force: bool, as_json: bool) -> None:
    """Put finished runs side by side: what each left of its original, from their reports. Nothing is measured."""
    from ..core.reporting.report import figures_tables, print_json
    from ..pipeline.inspection.comparing import compared, holding_reports, read_reports, write_page

    holding, without = holding_reports(runs)
    reports = read_reports(holding)
    columns, rows = compared(reports)
    if output is not None:
        write_page(output, columns, rows, reports, force=force)
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    console = stderr_console()
    for table in figures_tables("runs", columns, rows, console.width):
        console.print(table)
    if without:
        click.echo(f"left out, since they hold no report of a run: {', '.join(without)}", err=True)
    write_result(output or f"{len(reports)} runs")


@click.command("verify", cls=SectionedCommand, no_args_is_help=True, epilog="compresskit verify runs/pruned")
@click.argument("artifact", metavar="ARTIFACT")
@click.option("--trust-source", is_flag=True, help="Run the user code that the artifact carries.")
@click.option("--source", help="The user code the artifact was made from, named again.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def verify_command(artifact: str, trust_source: bool, source: str | None, as_json: bool) -> None:
    """Check an artifact: the weights' hash, the probe output, and a reload in a fresh process. Exits 3 if one fails."""
    from ..core.reporting.report import print_json, rows_table
    from ..pipeline.inspection.looking import verify_artifact

    rows = verify_artifact(artifact, trust_source=trust_source, source=source)
    if as_json:
        print_json(rows)
    else:
        stderr_console().print(
            rows_table(artifact, [{**row, "passed": "yes" if row["passed"] else "NO"} for row in rows])
        )
    failed = [row for row in rows if not row["passed"]]
    if failed:
        raise GuardMissed(f"artifact {artifact!r}: {failed[0]['check']}: failed ({failed[0]['detail']})")
    if not as_json:
        write_result("verified")


@click.command("doctor", cls=SectionedCommand, epilog="compresskit doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def doctor_command(as_json: bool) -> None:
    """Say which runtimes and extras work here, with the install line for each that does not."""
    from ..core.reporting.report import print_json, rows_table
    from ..pipeline.inspection.doctor import examine

    rows = examine()
    if as_json:
        print_json(rows)
        return
    stderr_console().print(rows_table("what works here", rows))
    write_result(f"{sum(row['works'] == 'yes' for row in rows)} of {len(rows)} work")
