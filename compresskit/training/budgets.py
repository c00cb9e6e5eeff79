"""Options of steps that can be given a budget: one field a cost, made from the table of costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..core.costs import COSTS, Amount, field_of, names
from ..core.errors import InputError
from ..core.fields import amount_fields, amounts_of, with_fields
from .options import StepOptions


class BudgetOptions(StepOptions):
    """Base of the techniques that take budgets; `with_targets` adds their fields."""

    def targets(self) -> dict[str, Amount]:
        """The costs that have a budget: name -> amount."""
        return amounts_of(self, field_of)

    def budget(self) -> dict[str, float | str]:
        """The budget as given: option -> amount."""
        return {field_of(name): getattr(self, field_of(name)) for name in self.targets()}

    def timed_target(self) -> str | None:
        """The cost with a budget that only timing tells, if there is one."""
        return next((name for name in self.targets() if COSTS[name].known == "timed"), None)

    def needs_timed_target(self) -> str:
        """The cost with a budget that only timing tells.

        Raises:
            InputError: if there is none.
        """
        name = self.timed_target()
        if name is None:
            timed = " or ".join(field_of(name) for name in names("timed"))
            raise InputError(f"this needs a budget that is timed; give {timed}, e.g. 0.5")
        return name


Budgeted = TypeVar("Budgeted", bound=BudgetOptions)


def with_targets(technique: str, section: str) -> Callable[[type[Budgeted]], type[Budgeted]]:
    """A decorator that adds a field `target_NAME` for each cost that a technique changes, and refuses the others.

    Args:
        technique: as the rows of `costs.COSTS` call it; "search" takes them all, each for what it searches over.
        section: of the fields, in help.
    """

    def decorate(model: type[Budgeted]) -> type[Budgeted]:
        able = tuple(COSTS) if technique == "search" else names(technique=technique)
        help = "{of}: share kept, e.g. 0.5, or amount, e.g. {example}"
        made = with_fields(model, amount_fields(able, field_of, help, kept=True, section=section))
        made.refused = {
            field_of(name): f"is no budget of {technique}, which does not decide it; it is one of "
            f"{', '.join(cost.techniques)}"
            for name, cost in COSTS.items()
            if name not in able
        }
        return made

    return decorate
