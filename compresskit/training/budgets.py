"""Options of steps that can be given a budget: one field a cost, made from the table of costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self, TypeVar

from pydantic import model_validator

from ..core.costs import COSTS, Amount, cost_of, field_of, names
from ..core.errors import InputError
from ..core.fields import amount_fields, amounts_of, given_amounts, own_amounts_field, with_fields
from .options import StepOptions

#: the option that holds budgets of the user's own costs
_OWN = "target"


class BudgetOptions(StepOptions):
    """Base of the techniques that take budgets; `with_targets` adds their fields.

    Attributes:
        technique_name: as costs call it, or "search".
    """

    technique_name: ClassVar[str] = "search"

    @model_validator(mode="after")
    def _decides_own_costs(self) -> Self:
        for name in self.own_targets():
            if self.technique_name not in ("search", *cost_of(name).techniques):
                raise ValueError(f"{field_of(name)} {_not_decided(name, self.technique_name)}")
        return self

    def targets(self) -> dict[str, Amount]:
        """The costs that have a budget: name -> amount."""
        return amounts_of(self, field_of, _OWN)

    def budget(self) -> dict[str, float | str]:
        """The budget as given: option -> amount."""
        return {field_of(name): amount for name, amount in given_amounts(self, field_of, _OWN).items()}

    def own_targets(self) -> dict[str, float | str]:
        """Budgets of the user's own costs, as given."""
        own: dict[str, float | str] = getattr(self, _OWN)
        return own

    def with_budget(self, name: str, share: float) -> Self:
        """The same options with another share for a cost that has a budget."""
        own = not COSTS.builtin(name)
        return self.model_copy(update={_OWN: {name: share}} if own else {field_of(name): share})

    def timed_target(self) -> str | None:
        """The cost with a budget that only timing tells, if there is one."""
        return next((name for name in self.targets() if cost_of(name).known == "timed"), None)

    def exact_costs(self) -> tuple[str, ...]:
        """The costs that follow from the work that is left: the package's, and the user's own that have a budget."""
        return (*names("exact"), *(name for name in self.own_targets() if cost_of(name).known == "exact"))

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


def _not_decided(name: str, technique: str) -> str:
    return f"is no budget of {technique}, which does not decide it; it is one of {', '.join(cost_of(name).techniques)}"


def with_targets(technique: str, section: str) -> Callable[[type[Budgeted]], type[Budgeted]]:
    """A decorator that adds a field `target_NAME` for each cost that a technique changes, and refuses the others.

    Args:
        technique: as the rows of `costs.COSTS` call it; "search" takes them all, each for what it searches over.
        section: of the fields, in help.
    """

    def decorate(model: type[Budgeted]) -> type[Budgeted]:
        able = names() if technique == "search" else names(technique=technique)
        help = "{of}: share kept, e.g. 0.5, or amount, e.g. {example}"
        own = "a cost of your own: file.py:NAME=AMOUNT, the share kept, e.g. 0.5, or an amount with its unit"
        fields = amount_fields(able, field_of, help, kept=True, section=section)
        made = with_fields(model, {**fields, _OWN: own_amounts_field(_OWN, own, kept=True, section=section)})
        made.refused = {field_of(name): _not_decided(name, technique) for name in names() if name not in able}
        made.technique_name = technique
        return made

    return decorate
