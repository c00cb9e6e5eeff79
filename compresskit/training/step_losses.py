"""Losses of the last steps that nobody has looked at yet.

Reading a number back from an accelerator makes the process wait until all work before it is done, so there losses are
read many steps at once. On the CPU they are there anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..core import distributed
from ..core.errors import Diverged, InputError
from ..model.checkpoints.weights import check_module

#: steps between two looks on an accelerator
_STEPS = 32


@dataclass
class StepLosses:
    """Losses of steps, read in groups.

    Attributes:
        every: steps between two looks.
        latest: the loss that was read last; nan before the first.
    """

    every: int
    latest: float = math.nan
    _waiting: list[tuple[int, Tensor, dict[str, Tensor]]] = field(default_factory=list)

    @classmethod
    def on(cls, device: torch.device) -> StepLosses:
        """As suits a device."""
        return cls(1 if device.type == "cpu" else _STEPS)

    def note(self, step: int, loss: Tensor, parts: Mapping[str, Tensor | float]) -> bool:
        """Take in a step's loss and the terms it is made of; returns whether it is time to look."""
        kept = {name: torch.as_tensor(part).detach() for name, part in parts.items()}
        self._waiting.append((step, loss.detach(), kept))
        return len(self._waiting) >= self.every

    def read(self, total_steps: int, lr: float) -> list[tuple[float, dict[str, float]]]:
        """Means over the processes of the losses that wait, and their terms, in order.

        Args:
            total_steps, lr: of the training, for the error.
        Raises:
            Diverged: at the first that is not finite.
        """
        waiting, self._waiting = self._waiting, []
        values = torch.stack([loss.double() for _, loss, _ in waiting]).tolist() if waiting else []
        found = []
        for (step, _, parts), own in zip(waiting, values, strict=True):
            self.latest = distributed.mean(own)
            if not math.isfinite(self.latest):
                raise Diverged(
                    f"the training loss became {self.latest} at step {step + 1} of {total_steps}; lower lr "
                    f"(now {lr:g}), set grad_clip, or lengthen warmup"
                )
            found.append((self.latest, {name: float(part) for name, part in parts.items()}))
        return found

    def check_weights(self, module: nn.Module, lr: float) -> None:
        """Look at what was trained: losses may stay finite while a statistic of a norm overflows.

        Args:
            module: the trained model.
            lr: of the training, for the error.
        Raises:
            Diverged: if its weights or statistics are not finite.
        """
        try:
            check_module(module, "training")
        except InputError as error:
            raise Diverged(
                f"{error} after a last loss of {self.latest:.3g}; lower lr (now {lr:g}), set grad_clip, or lengthen "
                "warmup"
            ) from error
