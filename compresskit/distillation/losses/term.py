"""What a loss is to the training loop: a term made for two models, called once a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Signals:
    """What a batch gave.

    Attributes:
        student: logits of the student, (batch, ..., classes).
        teacher: logits of the teacher, the same shape.
        targets: the data's targets.
        indices: which examples of the data set these are, (batch,).
        features: one (student, teacher) pair of tensors a matched stage, shallow to deep.
        embeddings: (student, teacher) inputs of the classifiers, (batch, features), or None.
        progress: share of the training that is done, 0 to 1.
    """

    student: Tensor
    teacher: Tensor
    targets: Any = None
    indices: Tensor | None = None
    features: Sequence[tuple[Tensor, Tensor]] = ()
    embeddings: tuple[Tensor, Tensor] | None = None
    progress: float = 0.0


@dataclass(frozen=True)
class Setup:
    """What a term is made for.

    Attributes:
        signals: those of one example batch, for shapes.
        temperature: of softened logits.
        arguments: the loss's own settings by name.
        examples: size of the training data.
        seed: for random weights of adapters.
    """

    signals: Signals
    temperature: float = 4.0
    arguments: Mapping[str, float] = field(default_factory=dict)
    examples: int = 0
    seed: int = 0


@dataclass
class Term:
    """A loss made for a student and a teacher.

    Attributes:
        compute: signals -> scalar.
        adapters: modules that are trained along and then dropped.
    """

    compute: Callable[[Signals], Tensor]
    adapters: list[nn.Module] = field(default_factory=list)


@dataclass(frozen=True)
class Loss:
    """A row of the table of losses: how to make the term, and the paper's weight.

    Attributes:
        make: Setup -> Term.
        weight: what the term is multiplied by.
        task_weight: weight of the data's own targets beside it.
        needs: which signals it takes besides the logits: "features", "embeddings", "labels", "indices".
        arguments: its own settings with their defaults.
    """

    make: Callable[[Setup], Term]
    weight: float = 1.0
    task_weight: float = 1.0
    needs: tuple[str, ...] = ()
    arguments: Mapping[str, float] = field(default_factory=dict)
