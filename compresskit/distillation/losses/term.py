"""What a loss is to the training loop: a term made for two models, called once a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class DistillationBatch:
    """What a batch gave.

    Attributes:
        student: logits of the student, (batch, ..., classes).
        teacher: logits of the teacher, the same shape.
        targets: the data's targets.
        indices: which examples of the data set these are, (batch,).
        features: one (student, teacher) pair of tensors a matched stage, shallow to deep.
        before_relu: the same stages before their last ReLU, where there is one.
        embeddings: (student, teacher) inputs of the classifiers, each (batch, features), or None.
        attention: one pair a matched attention layer, each a (queries, keys, values) triple of tensors
            (batch, heads, tokens, channels).
        gradients: (student, teacher) gradients of the task loss by the input, each the input's shape, or None.
        progress: share of the training that is done, 0 to 1.
        outputs: what the student returned, as it returned it.
        task_loss: the student's loss against the targets, where it has a weight.
    """

    student: Tensor
    teacher: Tensor
    targets: Any = None
    indices: Tensor | None = None
    features: Sequence[tuple[Tensor, Tensor]] = ()
    before_relu: Sequence[tuple[Tensor, Tensor]] = ()
    embeddings: tuple[Tensor, Tensor] | None = None
    attention: Sequence[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = ()
    gradients: tuple[Tensor, Tensor] | None = None
    progress: float = 0.0
    outputs: Any = None
    task_loss: Tensor | None = None


@dataclass(frozen=True)
class Setup:
    """What a term is made for.

    Attributes:
        signals: those of one example batch, for shapes.
        temperature: of softened logits.
        arguments: the loss's own settings by name, complete.
        examples: how many examples the training uses.
        rows: index of an example in the data -> its number among those used, (largest index + 1,); None where all are.
        classes: class of each example used, (examples,), or None.
        seed: for random weights of adapters.
        teacher_norms: for each matched stage, the teacher's batch norm before the stage's last ReLU, or None.
    """

    signals: DistillationBatch
    temperature: float = 4.0
    arguments: Mapping[str, float] = field(default_factory=dict)
    examples: int = 0
    rows: Tensor | None = None
    classes: Tensor | None = None
    seed: int = 0
    teacher_norms: Sequence[nn.Module | None] = ()


class BatchMemory(nn.Module):
    """What a loss remembers of earlier batches."""

    def flush(self) -> None:
        """Take in what the last call left for later."""
        raise NotImplementedError


@dataclass
class Term:
    """A loss made for a student and a teacher.

    Attributes:
        compute: signals -> scalar.
        adapters: modules that are trained along and then dropped.
        memory: module whose buffers must survive a kill, but that is not trained.
    """

    compute: Callable[[DistillationBatch], Tensor]
    adapters: list[nn.Module] = field(default_factory=list)
    memory: BatchMemory | None = None


@dataclass(frozen=True)
class Loss:
    """A row of the table of losses: how to make the term, and the paper's weight.

    Attributes:
        make: Setup -> Term.
        weight: what the term is multiplied by.
        task_weight: weight of the data's own targets beside it.
        needs: the signals it takes besides the logits: "features", "heads" (with them), "before_relu", "embeddings",
            "attention", "gradients", "labels", "indices".
        arguments: its own settings with their defaults.
        compares_outputs: whether it takes the logits; where none does, those of the two models may differ in shape.
    """

    make: Callable[[Setup], Term]
    weight: float = 1.0
    task_weight: float = 1.0
    needs: tuple[str, ...] = ()
    arguments: Mapping[str, float] = field(default_factory=dict)
    compares_outputs: bool = True


def total(parts: Iterable[Tensor]) -> Tensor:
    """The sum of scalars; 0 of none."""
    return sum(parts, torch.zeros(()))


def needed(pair: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """A signal that a loss names in `needs`, without which it is not made."""
    if pair is None:
        raise TypeError("a loss reads a signal that it does not name in needs")
    return pair


def on_embeddings(function: Callable[..., Tensor]) -> Callable[[Setup], Term]:
    """A maker for losses between the two embeddings; the loss's arguments become keywords."""
    return lambda setup: Term(lambda signals: function(*needed(signals.embeddings), **setup.arguments))


def on_stages(function: Callable[..., Tensor]) -> Callable[[Setup], Term]:
    """A maker for losses summed over the matched stages; the loss's arguments become keywords."""
    return lambda setup: Term(
        lambda signals: total(function(student, teacher, **setup.arguments) for student, teacher in signals.features)
    )
