"""What the commands share: the console on stderr, common flags, validation of flags."""

from __future__ import annotations

from typing import Any

import click
from pydantic import ValidationError

from ..core.errors import InputError
from ..core.reporting.progress import stderr_console, stderr_log
from ..pipeline.recipe import explain
from .derive import flag_of

__all__ = ["common_options", "logger", "stderr_console", "validated"]


def logger(quiet: bool):
    """A function that prints one line of progress to stderr; silent in other processes of a torchrun."""
    return (lambda line: None) if quiet else stderr_log()


def common_options() -> list[click.Option]:
    """Flags of every command that writes an artifact."""
    return [
        click.Option(["-f", "--force"], is_flag=True, help="Replace an existing output."),
        click.Option(["--resume"], is_flag=True, help="Go on with what an interrupted run finished."),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report as JSON on stdout."),
        click.Option(["-q", "--quiet"], is_flag=True, help="No progress on stderr."),
    ]


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
