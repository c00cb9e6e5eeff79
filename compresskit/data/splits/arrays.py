"""Examples in memory, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import InputError
from ..arrays import check_inputs, check_targets, to_tensor


@dataclass
class ArraySplit:
    """Examples in memory: inputs (n, ...), targets (n, ...); `only` is the name of the inputs, if they have one."""

    inputs: Tensor
    targets: Tensor
    as_given: bool = False  # whether images of whole numbers stay what they are, too
    only: str = ""
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.targets[indices]

    def input_name(self) -> str:
        """What the data calls its only input; "" where there is no name."""
        return self.only

    def subset(self, indices: Tensor) -> ArraySplit:
        """Fewer of the examples."""
        return ArraySplit(self.inputs[indices], self.targets[indices], self.as_given, self.only)


def array_split(inputs: Any, targets: Any, where: str) -> ArraySplit:
    """Arrays of a file or factory as a split; whole numbers in a vector are classes, floats stay what they are.

    Raises:
        InputError: if they are no numbers, hold NaN, or differ in length.
    """
    inputs, targets = to_tensor(inputs, f"data {where!r}: inputs"), to_tensor(targets, f"data {where!r}: targets")
    if len(inputs) != len(targets):
        raise InputError(f"data {where!r}: {len(inputs)} inputs but {len(targets)} targets")
    if inputs.dtype == torch.float64:
        inputs = inputs.float()
    check_inputs(inputs, where)
    check_targets(targets, where)
    return ArraySplit(inputs, targets.float() if targets.is_floating_point() else targets.long())
