"""What changes during a training besides tensors, and what of it a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class State:
    """Progress of a run; JSON-able.

    Attributes:
        step: steps taken.
        best: best value on the validation split so far, and the epoch it was reached at.
        without_gain: evaluations since then.
        epoch_loss, epoch_steps, epoch_parts: sums over the steps of the running epoch.
        seconds: spent training.
        history: one mapping an epoch.
    """

    step: int = 0
    best: float | None = None
    best_epoch: float = 0.0
    without_gain: int = 0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    epoch_parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False
    stopped_early: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def count(self, loss: float, parts: Mapping[str, float]) -> None:
        """Add a step's loss, and the terms it is made of, to the epoch's sums."""
        self.epoch_loss += loss
        self.epoch_steps += 1
        for name, part in parts.items():
            self.epoch_parts[name] = self.epoch_parts.get(name, 0.0) + float(part)

    def end_epoch(self, epoch: float) -> dict[str, Any]:
        """The epoch's row with its mean losses; the sums start again."""
        row: dict[str, Any] = {"epoch": round(epoch, 4), "step": self.step, "loss": self.epoch_loss / self.epoch_steps}
        row |= {f"loss_{name}": total / self.epoch_steps for name, total in self.epoch_parts.items()}
        self.epoch_loss, self.epoch_steps, self.epoch_parts = 0.0, 0, {}
        return row

    def judge(self, value: float, epoch: float, *, higher_is_better: bool) -> bool:
        """Note a value on the validation split; whether it is the best so far."""
        if self.best is None or (value > self.best if higher_is_better else value < self.best):
            self.best, self.best_epoch, self.without_gain = value, round(epoch, 4), 0
            return True
        self.without_gain += 1
        return False
