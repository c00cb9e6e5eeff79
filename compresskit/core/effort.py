"""How hard a step tries: one word that sets what its options leave open, and the work that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import model_validator

from .options import Options, option

Effort = Literal["fast", "default", "best"]
#: effort -> option -> its value where it was not given
Efforts = Mapping[str, Mapping[str, Any]]


class Passes(NamedTuple):
    """Examples that go through a model.

    Attributes:
        forward: examples forward alone.
        backward: examples forward and backward.
    """

    forward: float = 0.0
    backward: float = 0.0

    def plus(self, other: Passes) -> Passes:
        """Both."""
        return Passes(self.forward + other.forward, self.backward + other.backward)


class EffortOptions(Options):
    """Base of the steps that can trade time for quality.

    Attributes:
        efforts: effort -> option -> its value where it was not given; a subclass adds to its bases'.
    """

    efforts: ClassVar[Efforts] = {}

    effort: Effort = option(
        "default",
        "trade time for quality: fast takes fewer examples, steps, candidates and epochs than the defaults, best more; "
        "options that are given win",
        section="Effort",
    )

    def effort_chooses(self) -> dict[str, Any]:
        """What the effort sets: option -> value; neither what was given nor what nothing would read."""
        found: dict[str, Any] = {}
        for base in reversed(type(self).__mro__):
            found |= vars(base).get("efforts", {}).get(self.effort, {})
        return {name: value for name, value in found.items() if not self._given(name) and self.effort_reads(name)}

    def effort_reads(self, name: str) -> bool:
        """Whether a step with these options reads an option that an effort could set."""
        return True

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly; its measurement left out.

        Args:
            examples: of the training split.
        """
        return Passes()

    def seconds_at_most(self) -> float | None:
        """Seconds after which the step's own work ends by itself; None where it takes what it takes."""
        return None

    def _given(self, name: str) -> bool:
        holder, key = self._holder(name)
        return key in holder.model_fields_set

    def _holder(self, name: str) -> tuple[Options, str]:
        path = next(leaf.path for leaf in type(self).leaves() if leaf.name == name)
        return (getattr(self, path[0]), path[1]) if len(path) > 1 else (self, name)

    @model_validator(mode="after")
    def _takes_the_effort(self) -> Self:
        for name, value in self.effort_chooses().items():
            holder, key = self._holder(name)
            if holder is not self:  # an object that others may share
                group = next(group for group in type(self).groups() if getattr(self, group) is holder)
                holder = holder.model_copy()
                vars(self)[group] = holder
            vars(holder)[key] = value  # not through pydantic, for which it then counted as given
        return self
