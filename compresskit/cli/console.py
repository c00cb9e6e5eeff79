"""What the commands share: the console on stderr, common flags, validation of flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
from pydantic import ValidationError

from ..core.errors import InputError, problems_of
from ..core.reporting.progress import LEVELS, Level, Reporter, stderr_console
from ..pipeline.checks.names import names_of
from ..pipeline.recipe import RecipeOptions, explain
from .derive import flag_of

__all__ = ["Shown", "common_options", "logger", "shown_options", "stderr_console", "validated", "validated_together"]


def logger(quiet: bool, level: Level = "info", *, events: bool = False) -> Callable[[str], None]:
    """A function that prints one line of progress to stderr; silent in other processes of a torchrun.

    Args:
        quiet: print nothing.
        level: the least that is printed.
        events: print JSON lines on stdout instead.
    """
    if os.environ.get("RANK", "0") != "0" or (quiet and not events):
        return lambda line: None
    return Reporter(level, events=events)


@dataclass(frozen=True)
class Shown:
    """What a command that runs steps prints.

    Attributes:
        as_json: the report as JSON on stdout.
        json_lines: progress as JSON lines on stdout, the report as the last of them.
        quiet: no progress.
        log_level: the least of progress that is printed.
    """

    as_json: bool
    json_lines: bool
    quiet: bool
    log_level: Level

    def log(self) -> Callable[[str], None]:
        """A function that takes one line of progress."""
        return logger(self.quiet, self.log_level, events=self.json_lines)

    def people(self) -> bool:
        """Whether a person reads the report on stderr."""
        return not (self.as_json or self.json_lines or self.quiet or self.log_level == "error")


def shown_options() -> list[click.Option]:
    """Flags of what is printed, the fields of `Shown`."""
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report as JSON on stdout."),
        click.Option(["--json-lines"], is_flag=True, help="Print progress and report as JSON lines on stdout."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr."),
        click.Option(
            ["--log-level"], type=click.Choice(LEVELS), default="info", help="Least of progress on stderr.",
            show_default=True,
        ),
    ]  # fmt: skip


def common_options() -> list[click.Option]:
    """Flags of every command that writes an artifact."""
    return [
        click.Option(["-f", "--force"], is_flag=True, help="Replace an existing output."),
        click.Option(["--resume"], is_flag=True, help="Go on with what an interrupted run finished."),
        *shown_options(),
    ]


def validated_together(command: str, *given: tuple[type[Any], dict[str, Any]]) -> list[Any]:
    """Several options models from the flags of one command.

    Raises:
        InputError: the errors of all of them, those of names on the disk and in tables included.
    """
    made: list[Any] = []
    problems = problems_of(*(partial(_collect, made, model, values, command) for model, values in given))
    if problems:
        names = [line for one in made if isinstance(one, RecipeOptions) for line in names_of(one)]
        raise InputError("\n".join([*problems, *names]))
    return made


def _collect(made: list[Any], model: type[Any], values: dict[str, Any], command: str) -> None:
    made.append(validated(model, values, command))


def validated(model: type[Any], values: dict[str, Any], command: str) -> Any:
    """An options model from flags; each error names its flag.

    Raises:
        InputError: all errors, one line each.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        flags = {leaf.path: leaf.name for leaf in model.leaves()}
        lines = []
        for location, message in explain(error, model):
            name = flags.get(location[:2]) or (str(location[0]) if location else "")
            message = message.removeprefix(f"{'.'.join(map(str, location[:-1]))}.") if len(location) > 1 else message
            lines.append(f"{flag_of(name) if name else command}: {message}")
        raise InputError("\n".join(lines)) from None
