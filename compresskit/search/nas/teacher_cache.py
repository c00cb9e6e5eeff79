"""What the candidates learn from: the teacher's logits, computed once for all of them, and the data's own targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.types import Inputs, Loaded, call, main_output
from ...distillation.losses.term import DistillationBatch, Setup
from ...distillation.models import Teacher
from ...distillation.objective import Objective, WeightedTerm
from ...distillation.tables import LOSSES
from ...evaluation.losses import Loss, run_with_loss
from ...training.context import Context


class RememberedLogits:
    """The teacher's logits by the number of the training example; inputs are never augmented here.

    Args:
        examples: one more than the largest number.
    """

    def __init__(self, examples: int):
        self._values: Tensor | None = None
        self._known = torch.zeros(examples, dtype=torch.bool)

    def __call__(self, inputs: Inputs, rows: Tensor, compute: Callable[[Inputs], Tensor]) -> Tensor:
        """Logits of a batch; computed where one of them is not known yet.

        Args:
            inputs: the batch.
            rows: its numbers, (batch,).
            compute: inputs -> logits, (batch, ...).
        """
        rows = rows.cpu()
        if self._values is None or not bool(self._known[rows].all()):
            found = compute(inputs).detach()
            if self._values is None:
                self._values = torch.zeros(len(self._known), *found.shape[1:], dtype=found.dtype, device=found.device)
            self._values[rows] = found
            self._known[rows] = True
        return self._values[rows.to(self._values.device)]


def remembered_logits(context: Context) -> RememberedLogits:
    """An empty memory for the training examples of a context."""
    return RememberedLogits(int(context.needs_data().batches("train", batch_size=1).order().max()) + 1)


def distillation(teacher: Loaded, memory: RememberedLogits, context: Context) -> Objective:
    """Hinton's loss against the teacher (weight 0.9, temperature 4) and the targets, as `recover: kd` has it."""
    loss = LOSSES.load("kd")
    term = loss.make(Setup(DistillationBatch(torch.zeros(1, 1), torch.zeros(1, 1))))
    taught = Teacher([teacher], teacher.preprocessing, context.device)
    return Objective(
        taught,
        [WeightedTerm("kd", loss.weight, term)],
        task_weight=loss.task_weight,
        cache=memory,
        task_loss=context.loss,
    )


class LogitRegression:
    """N2N's loss: squared distance of the logits from the teacher's, and the data's own targets.

    Args:
        teacher: in evaluation mode.
        memory: of its logits.
        loss: against the data's own targets; None goes by their kind.
    Source: Ba & Caruana, "Do Deep Nets Really Need to be Deep?", 2014, eq. 1; added up with the task loss as in N2N.
    """

    def __init__(self, teacher: nn.Module, memory: RememberedLogits, loss: Loss | None = None):
        self._teacher, self._memory, self._loss = teacher, memory, loss
        self._rows = torch.zeros(0, dtype=torch.long)

    def begin_step(self, indices: Tensor, step: int, total_steps: int) -> None:
        """Called by the training loop before each batch."""
        self._rows = indices

    def __call__(self, module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
        returned, task = run_with_loss(module, inputs, targets, self._loss)
        outputs = main_output(returned)
        with torch.no_grad():
            wanted = self._memory(inputs, self._rows, lambda batch: main_output(call(self._teacher, batch)))
        return F.mse_loss(outputs, wanted) + task
