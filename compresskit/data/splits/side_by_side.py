"""Examples of which each input lies in a split of its own: images in files beside numbers in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .arrays import ArraySplit
from .files import FileSplit


@dataclass
class SideBySide:
    """Splits of the same examples and targets, in the order in which forward takes their inputs."""

    parts: Sequence[FileSplit | ArraySplit]
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.parts[0])

    def take(self, indices: Tensor) -> tuple[tuple[Any, ...], Tensor]:
        """A tuple of the parts' inputs, and the targets."""
        taken = [part.take(indices) for part in self.parts]
        return tuple(inputs for inputs, _ in taken), taken[0][1]

    def subset(self, indices: Tensor) -> SideBySide:
        """Fewer of the examples."""
        return SideBySide([part.subset(indices) for part in self.parts])
