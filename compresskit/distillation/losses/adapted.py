"""Losses that learn something along: variances, factors, fused stages, margins, masked features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .logits import ramp
from .shapes import as_map, pooled_alike, seeded
from .term import DistillationBatch, Loss, Setup, Term

_START_VARIANCE = 5.0
_SLOPE = 0.1  # of leaky ReLUs in factor transfer


def gaussian_likelihood(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's feature under a Gaussian, up to a constant; the mean over elements.

    Args:
        mean: predicted from the student, (batch, channels, height, width).
        variance: one a channel, (channels,).
        teacher: like mean.
    Source: Ahn et al., "Variational Information Distillation", CVPR 2019.
    """
    variance = variance.reshape(1, -1, 1, 1)
    return (0.5 * ((mean - teacher).square() / variance + variance.log())).mean()


class GaussianHead(nn.Module):
    """Predicts a teacher's feature from a student's, and with what variance a channel."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )
        self.raw_variance = nn.Parameter(torch.full((out_channels,), math.log(math.expm1(_START_VARIANCE))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = pooled_alike(student, teacher)
        return gaussian_likelihood(self.mean(student), F.softplus(self.raw_variance) + 1e-5, teacher)


def factor_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of unit-length factors.

    Args:
        student: factors, (batch, ...).
        teacher: the same shape.
    Source: Kim, Park & Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018.
    """
    return F.l1_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))


def _factor_layers(in_channels: int, out_channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for start, end in ((in_channels, in_channels), (in_channels, out_channels), (out_channels, out_channels)):
        layers += [nn.Conv2d(start, end, 3, padding=1), nn.BatchNorm2d(end), nn.LeakyReLU(_SLOPE)]
    return layers


class Factors(nn.Module):
    """Paraphraser of the teacher (an autoencoder), and translator of the student into its factors.

    The paraphraser learns from its own reconstruction error while the student learns, since the factors are
    detached from the student's loss; the paper trains it beforehand.
    """

    def __init__(self, student_channels: int, teacher_channels: int, rate: float):
        super().__init__()
        factors = max(1, round(teacher_channels * rate))
        self.encode = nn.Sequential(*_factor_layers(teacher_channels, factors))
        self.decode = nn.Sequential(*_factor_layers(factors, teacher_channels))
        self.translate = nn.Sequential(*_factor_layers(student_channels, factors))

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """-> (loss of the student, reconstruction error of the teacher's feature)."""
        student, teacher = pooled_alike(student, teacher)
        factors = self.encode(teacher)
        return factor_transfer(self.translate(student), factors.detach()), F.mse_loss(self.decode(factors), teacher)


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Squared distance that lets the student be where the teacher is inactive, as long as it is inactive too.

    Args:
        student: after the connector, (batch, channels, height, width).
        teacher: features before the ReLU, the same shape.
        margin: negative value a channel that stands for "inactive", (channels,).
    Returns:
        the sum over an example's elements, the mean over the batch.
    Source: Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
    """
    target = torch.maximum(teacher, margin.reshape(1, -1, 1, 1))
    free = (student <= target) & (target <= 0)
    return ((student - target).square() * ~free).flatten(1).sum(1).mean()


def inactive_margin(mean: Tensor, deviation: Tensor) -> Tensor:
    """Expectation of a Gaussian channel given that it is negative: mean - deviation * pdf / cdf.

    Args:
        mean: bias of the batch norm before the ReLU, (channels,).
        deviation: its weight, (channels,).
    Source: Heo et al., ICCV 2019.
    """
    deviation = deviation.abs().clamp(min=1e-6)
    normal = torch.distributions.Normal(0.0, 1.0)
    below = normal.cdf(-mean / deviation)
    density = normal.log_prob(mean / deviation).exp()
    # channels that are hardly ever negative: the ratio is not stable there
    return torch.where(below > 1e-3, mean - deviation * density / below.clamp(min=1e-3), -3 * deviation)


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference at the full size and at pooled sizes 4, 2 and 1, weights halving.

    Args:
        student: (batch, channels, height, width).
        teacher: the same shape.
    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.4.
    """
    loss, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size >= student.shape[2]:
            continue
        weight /= 2
        total += weight
        mine, theirs = (F.adaptive_avg_pool2d(feature, size) for feature in (student, teacher))
        loss = loss + weight * F.mse_loss(mine, theirs)
    return loss / total


class ReviewStage(nn.Module):
    """Attention-based fusion: joins a stage with what came from deeper stages, and shapes it like the teacher's.

    Source: Chen et al., CVPR 2021, figure 3.
    """

    def __init__(self, in_channels: int, middle_channels: int, out_channels: int, *, deepest: bool):
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(in_channels, middle_channels, 1, bias=False), nn.BatchNorm2d(middle_channels)
        )
        self.leave = nn.Sequential(
            nn.Conv2d(middle_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.weigh = None if deepest else nn.Sequential(nn.Conv2d(2 * middle_channels, 2, 1), nn.Sigmoid())

    def forward(self, feature: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """-> (feature shaped like the teacher's, what goes on to the shallower stage)."""
        mixed = self.enter(feature)
        if self.weigh is not None and deeper is not None:
            deeper = F.interpolate(deeper, mixed.shape[2:], mode="nearest")
            shares = self.weigh(torch.cat([mixed, deeper], 1))
            mixed = mixed * shares[:, :1] + deeper * shares[:, 1:]
        if tuple(mixed.shape[2:]) != tuple(size):
            mixed = F.interpolate(mixed, tuple(size), mode="nearest")
        return self.leave(mixed), mixed


class MaskedGenerator(nn.Module):
    """Generates the teacher's feature from the student's with random channels-wide places masked.

    Source: Yang et al., "Masked Generative Distillation", ECCV 2022.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.align = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor, masked_share: float) -> Tensor:
        """-> the squared error summed over an example's elements, the mean over the batch."""
        student, teacher = pooled_alike(student, teacher)
        aligned = self.align(student)
        kept = torch.rand(len(aligned), 1, *aligned.shape[2:], device=aligned.device) > masked_share
        return (self.generate(aligned * kept) - teacher).square().flatten(1).sum(1).mean()


def _channels(setup: Setup) -> list[tuple[int, int]]:
    return [(as_map(student).shape[1], as_map(teacher).shape[1]) for student, teacher in setup.signals.features]


def _make_variational(setup: Setup) -> Term:
    heads = nn.ModuleList(
        seeded(setup.seed + number, partial(GaussianHead, *pair)) for number, pair in enumerate(_channels(setup))
    )

    def compute(signals: DistillationBatch) -> Tensor:
        return reduce(torch.add, (head(*pair) for head, pair in zip(heads, signals.features, strict=True)))

    return Term(compute, [heads])


def _make_factor(setup: Setup) -> Term:
    factors = seeded(setup.seed, lambda: Factors(*_channels(setup)[-1], setup.arguments["rate"]))

    def compute(signals: DistillationBatch) -> Tensor:
        transfer, reconstruction = factors(*signals.features[-1])
        return transfer + setup.arguments["reconstruction"] * reconstruction

    return Term(compute, [factors])


def _connector(mine: int, theirs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(mine, theirs, 1, bias=False), nn.BatchNorm2d(theirs))


def _make_overhaul(setup: Setup) -> Term:
    pairs = _channels(setup)
    connectors = nn.ModuleList(
        seeded(setup.seed + number, partial(_connector, *pair)) for number, pair in enumerate(pairs)
    )
    norms = setup.teacher_norms or [None] * len(pairs)
    margins = [
        # without a batch norm to read from, any negative value of the teacher counts as inactive
        torch.zeros(channels)
        if norm is None
        else inactive_margin(norm.get_parameter("bias").detach(), norm.get_parameter("weight").detach())
        for norm, (_, channels) in zip(norms, pairs, strict=True)
    ]

    def compute(signals: DistillationBatch) -> Tensor:
        loss = torch.zeros(())
        for number, (student, teacher) in enumerate(signals.before_relu):
            student, teacher = pooled_alike(student, teacher)
            margin = margins[number].to(teacher.device)
            deepness = len(pairs) - 1 - number
            loss = loss + partial_distance(connectors[number](student), teacher, margin) / 2**deepness
        return loss

    return Term(compute, [connectors])


def _make_review(setup: Setup) -> Term:
    pairs = [(as_map(student), as_map(teacher)) for student, teacher in _review_features(setup.signals)]
    middle = min(int(setup.arguments["width"]), pairs[-1][0].shape[1])
    stages = nn.ModuleList(
        seeded(
            setup.seed + number,
            partial(ReviewStage, student.shape[1], middle, teacher.shape[1], deepest=number == len(pairs) - 1),
        )
        for number, (student, teacher) in enumerate(pairs)
    )

    def compute(signals: DistillationBatch) -> Tensor:
        loss, deeper = torch.zeros(()), None
        for stage, (student, teacher) in zip(reversed(stages), reversed(_review_features(signals)), strict=True):
            student, teacher = as_map(student), as_map(teacher)
            shaped, deeper = stage(student, deeper, teacher.shape[2:])
            loss = loss + hierarchical_context(shaped, teacher)
        return ramp(signals.progress, setup.arguments["warmup"]) * loss

    return Term(compute, [stages])


def _review_features(signals: DistillationBatch) -> list[tuple[Tensor, Tensor]]:
    """Stages and, as the deepest one, the pooled feature before the classifier."""
    return [*signals.features, *([signals.embeddings] if signals.embeddings else [])]


def _make_masked(setup: Setup) -> Term:
    generator = seeded(setup.seed, lambda: MaskedGenerator(*_channels(setup)[-1]))
    return Term(lambda signals: generator(*signals.features[-1], setup.arguments["masked"]), [generator])


VID = Loss(_make_variational, needs=("features",))
FT = Loss(_make_factor, weight=200.0, needs=("features",), arguments={"rate": 0.5, "reconstruction": 1.0})
OFD = Loss(_make_overhaul, weight=1e-3, needs=("features", "before_relu"))
# the benchmark warms up over 20 of its 240 epochs
REVIEW = Loss(_make_review, needs=("features", "embeddings"), arguments={"width": 512.0, "warmup": 20 / 240})
MGD = Loss(_make_masked, weight=7e-5, needs=("features",), arguments={"masked": 0.15})
