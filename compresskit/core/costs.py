"""The table of costs: what a budget, a guard or a report can be about. Imports no torch.

A cost is one row here and its functions in `analysis/measure/costs/`. Options (`target_NAME`, `max_NAME`), the flags
and YAML keys made from them, reports, guards, and what techniques and searches optimize all come from the row.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

_PACKAGE = "compresskit.analysis.measure.costs"
_AMOUNT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)

_COUNTS = {"k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True, eq=False)  # each row is itself
class Cost:
    """One row.

    Attributes:
        noun: what reports and messages call it.
        says: a clause that a figure with its unit completes: "one forward takes {}".
        figure: the key of its figure in reports; of a timed cost, that of the record of the A/B comparison.
        unit: what absolute figures are in; "" for plain counts.
        units: unit as users write it, in letters of any case -> its factor.
        known: how a technique knows what a choice costs. "exact": it is `of_work` of the work that is left;
            "predicted": so it is, roughly, and what comes of a choice is measured until it fits; "timed": layers are
            timed, and so is what comes of a choice.
        measured_by: "module:function" (Loaded, inputs) -> the figure of a model, or None where it can't be measured
            here; empty where that is `of_work` of its measured work.
        of_work: "module:function" of a `Work`, linear in each of its counts; empty for a timed cost.
        techniques: those that change it, and so can be given a budget of it.
        label: how reports say where the figure is from.
        modelled: whether the figure comes from a model of hardware; searches compute it only where it is bounded.
        help: what the share in `target_NAME` is of.
    """

    noun: str
    says: str
    figure: str
    unit: str
    units: Mapping[str, float]
    known: Literal["exact", "predicted", "timed"]
    help: str
    measured_by: str = ""
    of_work: str = ""
    techniques: tuple[str, ...] = ("prune", "decompose", "mixed")
    label: str = ""
    modelled: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether figures are whole numbers, so that one above 1 needs no unit to be told from a share."""
        return self.unit in ("", "B")

    def measure(self) -> Callable[..., Any] | None:
        """The function that measures a model; imports torch."""
        return _resolve(self.measured_by) if self.measured_by else None

    def formula(self) -> Callable[[Any], float]:
        """The function of a `Work`."""
        found: Callable[[Any], float] = _resolve(self.of_work)
        return found

    def shown(self, figure: float) -> str:
        """A figure with its unit, or with the noun where it is a count."""
        if self.unit == "B":
            return f"{round(figure):,} bytes"
        return f"{figure:,.4g} {self.unit}" if self.unit else f"{round(figure):,} {self.noun}"

    def with_unit(self) -> str:
        """The noun, with the unit of bare figures where they are no counts."""
        return self.noun if self.is_counted else f"{self.noun} in {self.unit}"

    def example(self) -> str:
        """An absolute amount as users write it."""
        return f"2{_WRITTEN.get(self.unit, self.unit)}"


#: unit -> the one that examples take
_WRITTEN = {"": "M", "B": "MB", "uJ": "mJ"}

#: names that formulas of papers ask for
MACS, PARAMS, BYTES = "macs", "params", "bytes"

COSTS: dict[str, Cost] = {
    MACS: Cost(
        "MACs", "one forward takes {}", "macs", "", _COUNTS, "exact", "multiply-accumulates",
        of_work="counted:macs", techniques=("prune", "decompose", "mixed", "architecture"),
        label="executed: counted while running",
    ),
    PARAMS: Cost(
        "parameters", "the model has {}", "parameters", "", _COUNTS, "exact", "parameters",
        of_work="counted:params", techniques=("prune", "decompose", "mixed", "architecture"),
    ),
    "bytes": Cost(
        "bytes", "the weights take {}", "size_bytes", "B", _BYTES, "exact", "bytes of the weights",
        measured_by="counted:stored_bytes", of_work="counted:tensor_bytes",
        techniques=("prune", "decompose", "quantize", "mixed"),
        label="stored: size of the weights file",
    ),
    "latency": Cost(
        "latency", "one forward takes {}", "latency", "ms", {"us": 1e-3, "ms": 1.0, "s": 1e3}, "timed",
        "measured latency", techniques=("prune", "decompose", "quantize", "mixed"),
    ),
    "memory": Cost(
        "peak memory", "activations take {} at their peak", "peak_memory_bytes", "B", _BYTES, "predicted",
        "peak memory of activations at batch size 1, measured",
        measured_by="memory:peak_bytes", of_work="memory:predicted_bytes", techniques=("prune",),
        label="executed: allocations of one forward at batch size 1, without weights and inputs",
    ),
    "energy": Cost(
        "energy", "one forward takes {} by the model of energy", "energy_uj", "uJ",
        {"nJ": 1e-3, "uJ": 1.0, "mJ": 1e3, "J": 1e6}, "exact", "modelled energy of a forward",
        of_work="energy:microjoules", techniques=("prune", "decompose", "mixed"),
        label="modelled: counts times the energies of Horowitz 2014 (45 nm), not measured", modelled=True,
    ),
}  # fmt: skip


class Amount(NamedTuple):
    """An amount of a cost: a share of what the model has now, or an absolute figure in the cost's unit."""

    value: float
    is_share: bool

    def of(self, whole: float) -> float:
        """The absolute limit, for a model that has `whole`."""
        return self.value * whole if self.is_share else self.value

    def share_of(self, whole: float) -> float:
        """The share of `whole` that it is."""
        return self.value if self.is_share else self.value / whole


def names(*known: str, technique: str | None = None) -> tuple[str, ...]:
    """Names of the costs that are known in one of these ways (all, if none is given) and that a technique changes."""
    return tuple(
        name
        for name, cost in COSTS.items()
        if (not known or cost.known in known) and (technique is None or technique in cost.techniques)
    )


def field_of(name: str) -> str:
    """The option that gives a budget of a cost."""
    return f"target_{name}"


def guard_of(name: str) -> str:
    """The option that guards a cost."""
    return f"max_{name}"


def read_amount(option: str, name: str, given: Any, *, kept: bool = True) -> Any:
    """An amount as options keep it: a share as a number, an absolute figure as "2 ms" or, of a count, a whole number.

    Args:
        option: what the user calls it, for messages.
        name: the cost.
        given: a number or text; None and what is neither are returned as they are.
        kept: whether a share is what is kept of the model, so that it lies below 1.
    Raises:
        ValueError: naming the option, the amount and how to write it.
    """
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return given
    cost, amount = COSTS[name], parse(option, name, given)
    if amount.value <= 0:
        raise ValueError(f"{option} must be above 0, got {given}")
    if amount.is_share and kept and amount.value >= 1:
        raise ValueError(
            f"{option} is the share that is kept, so it must be less than 1, got {given}; an absolute amount has a "
            f"unit, e.g. {cost.example()}"
        )
    if amount.is_share:
        return amount.value
    return max(round(amount.value), 2) if cost.is_counted else f"{amount.value:g} {cost.unit}"


def parse(option: str, name: str, given: float | int | str) -> Amount:
    """What a number or text means as an amount of a cost: whole numbers above 1 count bytes, MACs or parameters.

    Raises:
        ValueError: if it means nothing, with how to write it.
    """
    cost = COSTS[name]
    read = _AMOUNT.fullmatch(given) if isinstance(given, str) else (None, given, "")
    if read is None:
        raise ValueError(f"{option} must be a share or an amount, got {given!r}; e.g. 0.5, 50% or {cost.example()}")
    number, unit = float(read[1]), read[2].lower()
    if unit == "%":
        return Amount(number / 100, True)
    factors = {written.lower(): factor for written, factor in cost.units.items()}
    if unit and unit not in factors:
        raise ValueError(f"{option}: unit {read[2]!r} in {given!r} does not fit; write {', '.join(['%', *cost.units])}")
    if unit:
        return Amount(number * factors[unit], False)
    return Amount(number, not (cost.is_counted and number > 1 and number.is_integer()))


def figure_key(name: str) -> str:
    """What facts call an absolute figure of a cost: its name with the unit, `latency_ms`."""
    unit = COSTS[name].unit
    return f"{name}_{'bytes' if unit == 'B' else unit.lower()}" if unit else name


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
