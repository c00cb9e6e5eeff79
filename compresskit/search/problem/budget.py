"""Budgets: what may be bounded, how amounts are written, and the absolute limits that they mean. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...core.errors import nearest

#: what a budget may bound
COSTS = ("macs", "params", "bytes", "latency", "latency_ms", "drop")
#: costs that are shares of the whole and nothing else
_SHARES = ("macs", "params", "latency")
#: unit -> its factor, and the costs that may be written in it
_UNITS = {
    "%": (0.01, ("macs", "params", "bytes", "latency", "drop")),
    "b": (1.0, ("bytes",)),
    "kb": (1e3, ("bytes",)),
    "mb": (1e6, ("bytes",)),
    "gb": (1e9, ("bytes",)),
    "ms": (1.0, ("latency", "latency_ms")),
}
_AMOUNT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)


def read_budget(given: Any) -> Any:
    """A budget with numbers for amounts: "1 MB", "2 ms" and "50%" are read, and so is "0.5,bytes=1MB".

    Args:
        given: cost -> number or text; anything else is returned as it is.
    Raises:
        ValueError: naming the cost, the amount and how to write it.
    """
    if not isinstance(given, Mapping):
        return given
    found: dict[str, Any] = {}
    for name, value in given.items():
        if not isinstance(value, str):
            found[str(name)] = value
            continue
        for part in f"{name}={value}".split(","):
            cost, _, text = part.partition("=")
            cost, amount = _amount(cost.strip(), text)
            found[cost] = amount
    return found


def _amount(cost: str, text: str) -> tuple[str, float]:
    read = _AMOUNT.fullmatch(text)
    if read is None:
        raise ValueError(f"budget: {cost} must be a number, got {text!r}; e.g. macs=0.5, bytes=1MB, latency=2ms")
    number, unit = float(read[1]), read[2].lower()
    if not unit:
        return cost, number
    factor, costs = _UNITS.get(unit, (1.0, ()))
    if cost not in costs:
        units = ", ".join(name for name, (_, own) in _UNITS.items() if cost in own)
        raise ValueError(f"budget: {cost}={text.strip()}: unit {read[2]!r} does not fit; {units or 'no unit'} would")
    return ("latency_ms" if unit == "ms" else cost), number * factor


def check_budget(budget: Mapping[str, float]) -> None:
    """Refuse what cannot be meant.

    Raises:
        ValueError: naming the cost and the mend.
    """
    if not budget:
        raise ValueError("nothing says how small; give budget, e.g. macs=0.5")
    for name, value in budget.items():
        if name not in COSTS:
            raise ValueError(f"budget: unknown cost {name!r}{nearest(name, COSTS)}")
        if value <= 0:
            raise ValueError(f"budget: {name} must be above 0, got {value:g}")
        if name in _SHARES and value >= 1:
            mend = "; milliseconds are latency_ms" if name == "latency" else f"; e.g. {name}=0.5"
            raise ValueError(f"budget: {name} is the share that is kept, so below 1, got {value:g}{mend}")
    if {"latency", "latency_ms"} <= set(budget):
        raise ValueError("budget: latency (a share) and latency_ms exclude each other; give one of them")
    if bounds_latency(budget) and "drop" in budget:
        raise ValueError("budget: drop and latency exclude each other; bound macs beside drop")


def bounds_latency(budget: Mapping[str, float]) -> bool:
    """Whether a budget bounds time."""
    return "latency" in budget or "latency_ms" in budget


def limits_of(budget: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float]:
    """Absolute limits from a budget: shares, and bytes up to 1, are of the whole."""
    limits = {}
    for name, value in budget.items():
        cost = "latency_ms" if name == "latency" else name
        if name == "drop":
            continue
        is_share = name in _SHARES or (name == "bytes" and value <= 1)
        limits[cost] = value * whole[cost] if is_share and cost in whole else value
    return limits
