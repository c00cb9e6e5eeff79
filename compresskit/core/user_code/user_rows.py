"""A user's own function in a registry: checked before it is called, and blamed by name for what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import CompresskitError, InputError, described
from .user_imports import blame


class UserRow:
    """A user's own function as a row: what it raises, or returns wrongly, is an InputError that names it.

    Args:
        function: the user's; its attributes are this one's, too.
        where: what to call it in errors.
        wrong: (what it returned, arguments) -> what is wrong with that, or "".
    """

    def __init__(self, function: Callable[..., Any], where: str, wrong: Callable[..., str]):
        self._function, self._where, self._wrong = function, where, wrong

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            found = self._function(*args, **kwargs)
            wrong = self._wrong(found, *args)
        except (CompresskitError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise InputError(f"{self._where} failed: {blame(error) or described(error)}") from error
        if wrong:
            raise InputError(f"{self._where}: {wrong}")
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a copy is made
            raise AttributeError(name)
        return getattr(self._function, name)


def check_call(function: Callable[..., Any], takes: tuple[str, ...], must: str) -> None:
    """Raises InputError, which begins with `must`, if a function does not take arguments of these names, in order."""
    function = getattr(function, "forward", function)  # a module's own signature takes anything
    try:
        inspect.signature(function).bind(*takes)
    except TypeError as error:
        raise InputError(f"{must}, and its signature {_signature(function)} does not: {error}") from error
    except ValueError:  # a callable without a signature
        pass


def _signature(function: Callable[..., Any]) -> str:
    return f"({', '.join(inspect.signature(function).parameters)})"
