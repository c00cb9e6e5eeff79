"""Contrastive representation distillation: tell the same example from others, across the two models."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import InputError
from .shapes import seeded, vectors
from .term import BatchMemory, DistillationBatch, Loss, Setup, Term, needed, total

_TINY = 1e-7


def noise_contrastive(scores: Tensor, *, examples: int) -> Tensor:
    """Negative log-likelihood of telling the positive from the negatives.

    Args:
        scores: unnormalized probabilities, (batch, 1 + negatives), the positive first.
        examples: size of the data set that negatives come from.
    Returns:
        a scalar: summed over negatives, the mean over the batch.
    Source: Tian, Krishnan & Isola, "Contrastive Representation Distillation", ICLR 2020.
    """
    noise = (scores.shape[1] - 1) / examples
    positive = (scores[:, 0] / (scores[:, 0] + noise + _TINY)).log()
    negative = (noise / (scores[:, 1:] + noise + _TINY)).log().sum(1)
    return -(positive + negative).mean()


class Memory(BatchMemory):
    """The latest embedding of every training example on both sides, from which negatives are drawn.

    Args:
        examples: size of the data set.
        width: of the embeddings.
        negatives: drawn for each example.
        temperature: divides the scores.
        momentum: share of the old embedding when a new one comes.
        classes: class of each example, (examples,); negatives then come from the other classes only.
    """

    def __init__(
        self,
        examples: int,
        width: int,
        *,
        negatives: int,
        temperature: float,
        momentum: float,
        classes: Tensor | None = None,
    ):
        super().__init__()
        bound = 1 / math.sqrt(width / 3)
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        self.student: Tensor
        self.teacher: Tensor
        self.constants: Tensor
        self.classes: Tensor | None
        self.by_class: Tensor | None
        self.register_buffer("student", torch.empty(examples, width).uniform_(-bound, bound))
        self.register_buffer("teacher", torch.empty(examples, width).uniform_(-bound, bound))
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        # normalization constants of the two scores, taken from the first batch; 0 is "not yet"
        self.register_buffer("constants", torch.zeros(2))
        known = classes if classes is not None and len(classes.unique()) > 1 else None
        self.register_buffer("classes", None if known is None else known.clone(), persistent=False)
        self.register_buffer("by_class", None if known is None else known.argsort(stable=True), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of both sides against the other side's memory, which then takes the new embeddings.

        The update takes place before the next call, because this one's gradients still need the old memory.

        Args:
            student: unit vectors, (batch, width).
            teacher: unit vectors, (batch, width).
            indices: which rows of the memory these are, (batch,).
        Returns:
            two tensors (batch, 1 + negatives), the positive first.
        """
        self.flush()
        chosen = torch.cat([indices[:, None], self.draw(indices)], 1)
        scores = []
        for side, (anchor, others) in enumerate(((student, self.teacher), (teacher, self.student))):
            # all products at once are cheaper than gathering (batch, negatives, width) vectors
            products = (anchor @ others.T).gather(1, chosen)
            score = (products / self.temperature).exp()
            if self.constants[side] == 0:
                self.constants[side] = score.detach().mean() * len(others)
            scores.append(score / self.constants[side].item())
        self._pending = (student.detach(), teacher.detach(), indices)
        return scores[0], scores[1]

    def draw(self, indices: Tensor) -> Tensor:
        """Rows of negatives for each example, (batch, negatives), drawn with replacement."""
        shape = (len(indices), self.negatives)
        if self.classes is None or self.by_class is None:
            return torch.randint(0, len(self.student), shape, device=indices.device)
        # in the order of classes an example's own class is one run, which the draw steps over
        ordered = self.classes[self.by_class]
        own = self.classes[indices].contiguous()
        start = torch.searchsorted(ordered, own)
        length = torch.searchsorted(ordered, own, right=True) - start
        others = (len(self.classes) - length)[:, None]
        place = (torch.rand(shape, device=indices.device) * others).long().clamp(max=others - 1)
        return self.by_class[torch.where(place >= start[:, None], place + length[:, None], place)]

    @torch.no_grad()
    def flush(self) -> None:
        """Take in the embeddings of the last call."""
        if self._pending:
            student, teacher, indices = self._pending
            self._pending = None
            self._update(self.student, student, indices)
            self._update(self.teacher, teacher, indices)

    def _update(self, side: Tensor, latest: Tensor, indices: Tensor) -> None:
        side[indices] = F.normalize(self.momentum * side[indices] + (1 - self.momentum) * latest)


def _make_contrast(setup: Setup) -> Term:
    settings = setup.arguments
    if setup.examples < 2:
        raise InputError("loss crd needs to know the training data's examples; give data")
    width = int(settings["width"])
    embeds = nn.ModuleList(
        seeded(setup.seed + number, partial(nn.Linear, side.shape[1], width))
        for number, side in enumerate(needed(setup.signals.embeddings))
    )
    memory = seeded(
        setup.seed + 2,
        lambda: Memory(
            setup.examples,
            width,
            negatives=min(int(settings["negatives"]), setup.examples),
            temperature=settings["temperature"],
            momentum=settings["momentum"],
            classes=setup.classes,
        ),
    )

    def compute(signals: DistillationBatch) -> Tensor:
        if signals.indices is None:
            raise InputError("loss crd needs the indices of the examples, which this data does not give")
        student, teacher = (
            F.normalize(embed(vectors(side))) for embed, side in zip(embeds, needed(signals.embeddings), strict=True)
        )
        memory.to(student.device)
        indices = signals.indices if setup.rows is None else setup.rows[signals.indices.cpu()]
        scores = memory(student, teacher, indices.to(student.device))
        return total(noise_contrastive(score, examples=setup.examples) for score in scores)

    return Term(compute, [embeds], memory)


# settings as released by the authors, who also draw negatives from the other classes only
CRD = Loss(
    _make_contrast,
    weight=0.8,
    needs=("embeddings", "indices"),
    arguments={"negatives": 16384.0, "temperature": 0.07, "momentum": 0.5, "width": 128.0},
)
