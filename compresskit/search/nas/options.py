"""What `search` takes when whole networks are searched. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from ...core.options import option
from ...training.budgets import BudgetOptions
from ..tables import ARCHITECTURES, POLICIES

TECHNIQUE = "architecture"
#: examples a training step of a candidate
BATCH = 64
_POLICY_OPTIONS = {
    "network": ("n2n",),
    "widths": ("transform", "nas"),
    "slots": ("transform", "nas"),
}
_OWN = ("child_steps", "child_lr", "children", *_POLICY_OPTIONS)
_NOT_HERE = ("samples", "probe_samples", "ray")


class ArchitectureOptions(BudgetOptions):
    """The part of the search options that policies on whole networks read."""

    if TYPE_CHECKING:  # fields of SearchOptions, which adds its own to these
        technique: str
        policy: str

    child_steps: int = option(
        100, "training steps of each candidate network, 64 examples each, taught by the model", section="Architecture",
        ge=1,
    )  # fmt: skip
    child_lr: float = option(0.05, "peak learning rate of these steps", section="Architecture", gt=0)
    children: int = option(5, "candidate networks between two updates of the policy", section="Architecture", ge=1)
    widths: list[int] = option(
        [4, 6, 8, 12, 16, 24, 32, 48, 64], "channels that a layer may have (transform, nas)", section="Architecture",
        min_length=1,
    )  # fmt: skip
    slots: int = option(8, "layers at most (transform, nas)", section="Architecture", ge=1)
    network: dict[str, Any] | None = option(
        None, "n2n: make this student, {removed: [names], kept: {group: units}}, instead of searching for one; "
        "recipe.yaml of a search says it", section="Architecture",
    )  # fmt: skip

    @model_validator(mode="after")
    def _technique_and_policy_go_together(self) -> ArchitectureOptions:
        searched = self.technique == TECHNIQUE
        names = ", ".join(ARCHITECTURES)
        if searched and self.policy in POLICIES and self.policy not in ARCHITECTURES:
            raise ValueError(f"technique {TECHNIQUE!r} takes policy {names}; policy is {self.policy!r}")
        if not searched and self.policy in ARCHITECTURES:
            raise ValueError(
                f"policy {self.policy!r} makes new networks: give technique {TECHNIQUE!r}, not {self.technique!r}"
            )
        given = self.model_fields_set
        for name in _OWN if not searched else _NOT_HERE:
            if name in given:
                raise ValueError(f"{name} would be ignored: technique is {self.technique!r}")
        if searched:
            self._fits_the_policy()
        return self

    def _fits_the_policy(self) -> None:
        if ARCHITECTURES.builtin(self.policy):  # a user's own may read any
            self.refuse_unread(_POLICY_OPTIONS, "policy")
        if any(width < 1 for width in self.widths) or len(set(self.widths)) < len(self.widths):
            raise ValueError(f"widths must be different and at least 1, got {self.widths}")
