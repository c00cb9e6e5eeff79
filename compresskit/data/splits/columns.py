"""Examples in memory whose inputs or targets are several arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...core.tensors.batches import count_examples, pick


@dataclass
class ColumnSplit:
    """Examples in memory: mappings or tuples of tensors, the first dimension of each counts examples.

    Attributes:
        inputs: (n, ...) each.
        targets: (n, ...) each; None for inputs alone.
        where: what errors call it.
    """

    inputs: Any
    targets: Any
    where: str = ""
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return count_examples(self.inputs)

    def take(self, indices: Tensor) -> tuple[Any, Any]:
        return pick(self.inputs, indices), pick(self.targets, indices)

    def subset(self, indices: Tensor) -> ColumnSplit:
        """Fewer of the examples."""
        return ColumnSplit(*self.take(indices), self.where)
