"""The table of costs: what a budget, a guard or a report can be about. Imports no torch.

A cost is one row here, a record in `cost_rows.py` and its functions in `analysis/measure/costs/`; or it is the user's
own. Options (`target_NAME`, `max_NAME`; `target`, `max` of the user's own), the flags and YAML keys made from them,
reports, guards, and what techniques and searches optimize all come from the row.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

from .errors import InputError
from .registry import Registry, Row
from .user_code.in_memory import is_in_memory, label
from .user_code.user_rows import UserRow

_PACKAGE = "compresskit.analysis.measure.costs"
_LARGEST_PERCENT = 100  # smaller whole numbers are percentages whose sign was forgotten: no model costs so little
_AMOUNT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z%]*)\s*", re.IGNORECASE)

COUNTS = {"k": 1e3, "M": 1e6, "G": 1e9}
SIZES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass(frozen=True, eq=False)  # each row is itself
class Cost:
    """One row.

    Attributes:
        noun: what reports and messages call it.
        of_work: a function of a `Work`, linear in each of its counts, or "module:function" in
            `analysis/measure/costs/`; empty for a timed cost.
        unit: what absolute figures are in; "" for plain counts.
        units: unit as users write it, in letters of any case -> its factor.
        known: how a technique knows what a choice costs. "exact": it is `of_work` of the work that is left;
            "predicted": so it is, roughly, and what comes of a choice is measured until it fits; "timed": layers are
            timed, and so is what comes of a choice.
        measured_by: (Loaded, inputs) -> the figure of a model, or None where it can't be measured here, given like
            `of_work`; empty where that is `of_work` of its measured work.
        says: a clause that a figure with its unit completes: "one forward takes {}".
        figure: the key of its figure in reports; of a timed cost, that of the record of the A/B comparison.
        techniques: those that change it, and so can be given a budget of it.
        label: how reports say where the figure is from.
        modelled: whether the figure comes from a model of hardware; searches compute it only where it is bounded.
    """

    noun: str
    of_work: str | Callable[[Any], float] = ""
    unit: str = ""
    units: Mapping[str, float] | None = None
    known: Literal["exact", "predicted", "timed"] = "exact"
    measured_by: str | Callable[..., float | None] = ""
    says: str = ""
    figure: str = ""
    techniques: tuple[str, ...] = ("prune", "decompose", "quantize", "mixed")
    label: str = ""
    modelled: bool = False

    def __call__(self, work: Any) -> float:
        """The figure of a `Work`."""
        return self.formula()(work)

    @property
    def is_counted(self) -> bool:
        """Whether figures are whole numbers, so that one above 1 needs no unit to be told from a share."""
        return self.unit in ("", "B")

    def measure(self) -> Callable[..., Any] | None:
        """The function that measures a model; imports torch."""
        return (_resolve(self.measured_by) if isinstance(self.measured_by, str) else self.measured_by) or None

    def formula(self) -> Callable[[Any], float]:
        """The function of a `Work`."""
        return _resolve(self.of_work) if isinstance(self.of_work, str) else self.of_work

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

COSTS: Registry[Callable[[Any], float]] = Registry(
    "cost",
    "compresskit",
    {
        MACS: Row("core.cost_rows:MULTIPLICATIONS", "multiply-accumulates"),
        PARAMS: Row("core.cost_rows:PARAMETERS", "parameters"),
        BYTES: Row("core.cost_rows:WEIGHT_BYTES", "bytes of the weights"),
        "latency": Row("core.cost_rows:LATENCY", "measured latency"),
        "memory": Row("core.cost_rows:MEMORY", "peak memory of activations at batch size 1, measured"),
        "energy": Row("core.cost_rows:ENERGY", "modelled energy of a forward", "Horowitz, 2014"),
    },
    group="costs",
    takes=("work",),
    doc="""What a budget or a guard can be about: `--target file.py:name=AMOUNT`, `--max file.py:name=AMOUNT`.

A row is a function (work) -> the figure of a model, linear in each count of the work
(analysis.measure.work.Work): `macs` (bits of the operands -> multiply-accumulates of one forward), `params`,
`stored_bytes`, `read_bytes` (of tensors that a forward reads), `activation_bytes` (of what multiplying layers write).
It says by its attribute `unit`, e.g. "mg", what figures are in; one without is a whole number. A row may also be a
core.costs.Cost, which says more: a noun, further units, a function that measures a model.""",
)


@functools.lru_cache(maxsize=256)
def _builtin(name: str) -> Cost:
    return cast(Cost, COSTS.load(name))


def cost_of(name: str) -> Cost:
    """The cost of a name.

    Raises:
        ValueError: if there is none, naming the nearest.
        InputError: if a user's own is missing, or is no cost.
    """
    return _builtin(name) if COSTS.builtin(name) else _own(name, COSTS.load(name))


def _own(name: str, found: Any) -> Cost:
    """A cost of the user's own, with what it does not say filled in; its figure goes by its full name."""
    noun = label(name) if is_in_memory(name) else name.rpartition(":")[2]
    given = found if isinstance(found, Cost) else Cost(noun, of_work=found, unit=getattr(found, "unit", ""))
    if given.known == "timed" or not callable(given.of_work) or not isinstance(given.unit, str):
        raise InputError(f"cost {name!r} must be exact or predicted, with a function of_work and a unit in letters")
    if not re.fullmatch(r"[A-Za-z]*", given.unit):
        raise InputError(f"cost {name!r}: unit {given.unit!r} must be letters, e.g. 'mg'")
    guarded: dict[str, Any] = {
        attribute: UserRow(function, f"cost {name!r}", _no_number)
        for attribute, function in (("of_work", given.of_work), ("measured_by", given.measured_by))
        if callable(function)
    }
    return replace(
        given,
        **guarded,
        figure=name,
        says=given.says or f"its {given.noun} is {{}}",
        units=given.units or ({given.unit: 1.0} if given.unit else COUNTS),
        label=given.label or f"computed by {name}",
        techniques=given.techniques if given.known == "exact" else ("prune",),
        modelled=True,
    )


def _no_number(figure: Any, *_arguments: Any) -> str:
    """What is wrong with a figure, or ""."""
    if isinstance(figure, int | float) and not isinstance(figure, bool) and math.isfinite(figure):
        return ""  # of work that is saved it may be negative
    return f"must return a finite number, and returned {figure!r}"


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
    """Names of the package's costs known in one of these ways (all, if none is given) that a technique changes."""
    costs = ((name, _builtin(name)) for name in COSTS if COSTS.builtin(name))
    return tuple(
        name
        for name, cost in costs
        if (not known or cost.known in known) and (technique is None or technique in cost.techniques)
    )


def field_of(name: str) -> str:
    """The option that gives a budget of a cost; of a user's own, the option and its key."""
    return f"target_{name}" if COSTS.builtin(name) else f"target {name}"


def met_already(name: str, amount: Amount, figure: float) -> str:
    """What is wrong with a budget in an absolute amount that a model of some figure meets as it is."""
    row = cost_of(name)
    return f"{field_of(name)} is {row.shown(amount.value)}, and {row.says.format(row.shown(figure))} already; give less"


def guard_of(name: str) -> str:
    """The option that guards a cost; of a user's own, the option and its key."""
    return f"max_{name}" if COSTS.builtin(name) else f"max {name}"


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
    cost, amount = cost_of(name), parse(option, name, given)
    if amount.value <= 0:
        raise ValueError(f"{option} must be above 0, got {given}")
    has_unit = bool(_written(option, name, given)[1])
    if kept and not has_unit and not amount.is_share and amount.value <= _LARGEST_PERCENT:
        raise ValueError(
            f"{option} is a share or an amount with a unit, got {given}; did you mean {amount.value / 100:g} or "
            f"{amount.value:g}%?"
        )
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
    cost, (number, unit) = cost_of(name), _written(option, name, given)
    if unit == "%":
        return Amount(number / 100, True)
    units = cost.units or {}
    factors = {written.lower(): factor for written, factor in units.items()}
    if unit and unit.lower() not in factors:
        raise ValueError(f"{option}: unit {unit!r} in {given!r} does not fit; write {', '.join(['%', *units])}")
    if unit:
        return Amount(number * factors[unit.lower()], False)
    return Amount(number, not (cost.is_counted and number > 1 and number.is_integer()))


def _written(option: str, name: str, given: float | int | str) -> tuple[float, str]:
    """The number of an amount and its unit as it is written, "" where it has none."""
    read = _AMOUNT.fullmatch(given) if isinstance(given, str) else (None, given, "")
    if read is None:
        example = cost_of(name).example()
        raise ValueError(f"{option} must be a share or an amount, got {given!r}; e.g. 0.5, 50% or {example}")
    return float(read[1]), read[2]


def figure_key(name: str) -> str:
    """What facts call an absolute figure of a cost: its name with the unit, `latency_ms`."""
    unit = cost_of(name).unit
    return f"{name}_{'bytes' if unit == 'B' else unit.lower()}" if unit else name


def _resolve(target: str) -> Any:
    if not target:
        return None
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
