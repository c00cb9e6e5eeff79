"""What is searched over: places with levels, their exact costs, and the compressed copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import nn

Choice = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """One decision.

    Attributes:
        name: the layer or group.
        shares: of each level, what it keeps, growing; the last is the whole place unless the technique always cuts.
        labels: of each level, what it means ("12 of 16", "4 bits").
        features: what an agent sees of the layer: name -> number.
        readers: how many layers read what the place changes; their errors are alike, so that summing them up as if they
            were independent says too little.
    """

    name: str
    shares: tuple[float, ...]
    labels: tuple[str, ...]
    features: dict[str, float] = field(default_factory=dict)
    readers: int = 1

    def __len__(self) -> int:
        return len(self.shares)

    def nearest(self, share: float) -> int:
        """The level whose share is nearest to a wanted one."""
        return int(np.abs(np.asarray(self.shares) - share).argmin())


class Subject(Protocol):
    """What is searched over: one technique on one model."""

    places: list[Place]
    notes: list[str]

    def costs(self, choice: Choice) -> dict[str, float]:
        """Exact costs of a choice: name -> absolute figure."""
        ...

    def whole_costs(self) -> dict[str, float]:
        """Costs of the model as it is."""
        ...

    def errors(self, place: int) -> list[float]:
        """Predicted divergence of each level alone, up to one factor, found without running the model."""
        ...

    def build(self, choice: Choice) -> nn.Module:
        """A compressed copy."""
        ...

    def steps(self, choice: Choice) -> list[dict[str, Any]]:
        """The recipe steps that make this choice, each {technique: options}."""
        ...
