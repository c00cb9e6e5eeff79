"""How much a metric may lose: an amount in the metric's own unit, or percent of it. Imports no torch."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

_WRITTEN = re.compile(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(%?)\s*")


class Drop(NamedTuple):
    """A loss that is allowed."""

    value: float
    is_percent: bool

    def of(self, before: float, scale: Literal["share", "own"]) -> float:
        """The loss in the metric's unit.

        Args:
            before: the original model's value.
            scale: "share" of a metric from 0 to 1, of which 1% is 0.01; of others it is 1% of the original's.
        """
        if not self.is_percent:
            return self.value
        return self.value / 100 * (1.0 if scale == "share" else abs(before))


def parse_drop(given: float | str) -> Drop:
    """What a number or text means: 0.01, or 1%.

    Raises:
        ValueError: if it means nothing.
    """
    if not isinstance(given, str):
        return Drop(float(given), False)
    read = _WRITTEN.fullmatch(given)
    if read is None:
        raise ValueError(f"a drop must be a share or an amount, got {given!r}; e.g. 0.01 or 1%")
    return Drop(float(read[1]), bool(read[2]))


def read_drop(option: str, given: Any, *, zero: Literal["allowed", "refused"]) -> Any:
    """A drop as options keep it: a number, or text with a percent sign; what is neither is returned as it is.

    Args:
        option: what the user calls it, for messages.
        given: a number or text.
        zero: whether no loss at all may be asked for.
    Raises:
        ValueError: naming the option, if it means nothing or lies below zero.
    """
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return given
    try:
        drop = parse_drop(given)
    except ValueError as error:
        raise ValueError(f"{option} must be a share, got {given!r}; e.g. 0.01 or 1%") from error
    if drop.value < 0 or (zero == "refused" and drop.value == 0):
        raise ValueError(f"{option} must be {'above 0' if zero == 'refused' else '0 or more'}, got {given}")
    return f"{drop.value:g}%" if drop.is_percent else drop.value
