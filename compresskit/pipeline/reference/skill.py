"""A page for coding agents, made from the tables: commands, exit codes, sequences, pitfalls. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from ...core.costs import field_of, names
from ...core.errors import EXIT_CODES
from ..techniques import STEPS, TECHNIQUES
from .outputs import OUTPUTS, SCHEMA_VERSION

_SEQUENCES = {
    "Half the cost of a model with its accuracy kept": (
        "compresskit inspect MODEL --weights FILE --json",
        "compresskit prune MODEL --weights FILE --data DATA --target-macs 50% --recover kd --epochs 2 --dry-run --json",
        "compresskit prune MODEL --weights FILE --data DATA --target-macs 50% --recover kd --epochs 2 --max-drop 1% "
        "--json -o runs/half",
        "compresskit quantize runs/half --scheme int8-static --data DATA --max-drop 1% --json -o runs/int8",
        "compresskit verify runs/int8 --json",
    ),
    "A file for another runtime": (
        "compresskit doctor --json",
        "compresskit export runs/int8 --data DATA --json -o model.onnx",
    ),
    "After a kill": ("the same command with --resume",),
}
_PITFALLS = (
    "Shares are 0.5 or 50%, never 50. `--target-macs 0.5` keeps half; `--ratio 0.5` removes half.",
    "Without --weights a library's model has random weights; a warning says so, and its accuracy is chance.",
    "Give --max-drop: a step that costs more ends with code 3, and its model stays in OUTPUT.steps/N-NAME.missed.",
    "An existing output is replaced only with --force; an unfinished run is continued with --resume.",
    "Training options stand in one group: `recover: {mode: kd, epochs: 2}` in YAML, --recover kd --epochs 2 as flags.",
    "--dry-run checks everything in seconds and says what a step would cost and how long it takes.",
    "Results are on stdout, progress on stderr; with --json stdout is one JSON document, an error's included.",
    "`compresskit explain WORD` says what any option, choice or term means; `--help-all` lists every option.",
)


def skill_page(commands: Mapping[str, str]) -> str:
    """The page, as Markdown.

    Args:
        commands: those that are no techniques: name -> summary.
    """
    lines = ["---", "name: compresskit", "description: make trained PyTorch models smaller and faster, and measure it"]
    lines += ["---", "", "# compresskit", "", "Made by `compresskit skill`.", "", "## Commands", ""]
    lines += ["| command | what it does | example |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {row.summary} | `compresskit {row.example}` |" for name, row in TECHNIQUES.items()]
    examples = {name: f"`compresskit {row.example}`" for name, row in STEPS.items()}
    lines += [f"| `{name}` | {summary} | {examples.get(name, '')} |" for name, summary in commands.items()]
    budgets = ", ".join(f"--{field_of(name).replace('_', '-')}" for name in names())
    lines += ["", f"Budgets: {budgets}. Guards: --max-drop, --min-speedup, and --max-NAME of each budget."]
    lines += ["", "## Exit codes", "", "| code | meaning |", "| --- | --- |"]
    lines += [f"| {code} | {meaning} |" for code, (_, meaning) in EXIT_CODES.items()]
    lines += ["", "## JSON", "", f"`compresskit schema --output NAME` prints a schema (version {SCHEMA_VERSION})."]
    lines += ["", "| name | printed by |", "| --- | --- |"]
    lines += [f"| `{name}` | {about} |" for name, (_, about) in OUTPUTS.items()]
    lines += ["", "With --json-lines stdout holds one JSON object a line: `event` is line, warning, phase, progress, "
              "report or error."]  # fmt: skip
    lines += ["", "## Sequences"]
    for title, sequence in _SEQUENCES.items():
        lines += ["", f"{title}:", "", "```", *sequence, "```"]
    return "\n".join([*lines, "", "## Pitfalls", "", *(f"- {line}" for line in _PITFALLS)]) + "\n"
