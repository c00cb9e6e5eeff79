"""Losses between feature maps of matched stages: hints, attention, selectivity, flow."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import InputError
from .shapes import as_map, pooled_alike, seeded
from .term import DistillationBatch, Loss, Setup, Term, needed, on_stages, total


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of a regressed student feature and the teacher's.

    Args:
        student: (batch, channels, height, width), after the regressor.
        teacher: the same shape.
    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (there half the sum, not the mean).
    """
    return F.mse_loss(student, teacher)


class Regressor(nn.Sequential):
    """Convolution and batch norm from the student's channels to the teacher's; ReLU where the teacher's are positive.

    Args:
        student: example feature of the student, (batch, channels, height, width).
        teacher: example feature of the teacher.
        kernel_size: of the convolution, odd.
    """

    def __init__(self, student: Tensor, teacher: Tensor, kernel_size: int):
        self.size = (teacher.shape[2], teacher.shape[3])
        layers: list[nn.Module] = [
            nn.Conv2d(student.shape[1], teacher.shape[1], kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(teacher.shape[1]),
        ]
        if bool((teacher >= 0).all()):
            layers.append(nn.ReLU())
        super().__init__(*layers)

    def forward(self, input: Tensor) -> Tensor:
        feature = as_map(input)
        if tuple(feature.shape[2:]) != self.size:
            feature = F.adaptive_avg_pool2d(feature, self.size)
        return super().forward(feature)


def attention_map(feature: Tensor) -> Tensor:
    """Spatial attention of a feature map: the mean of squares over channels, normalized.

    Args:
        feature: activations, (batch, channels, height, width).
    Returns:
        (batch, height * width), each row of unit L2 norm.
    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017.
    """
    return F.normalize(as_map(feature).square().mean(1).flatten(1))


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the attention maps of one stage; maps are pooled to the smaller size.

    Source: Zagoruyko & Komodakis, ICLR 2017, as released (the paper's eq. 2 sums unsquared distances).
    """
    student, teacher = pooled_alike(student, teacher)
    return (attention_map(student) - attention_map(teacher)).square().mean()


def gradient_attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared distance of the gradients of the loss by the input, the mean over the batch.

    Args:
        student: gradients, the input's shape.
        teacher: the same shape.
    Source: Zagoruyko & Komodakis, ICLR 2017.
    """
    return 0.5 * (student - teacher).flatten(1).square().sum(1).mean()


def selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of channel patterns under the kernel (x.y)^2.

    Args:
        student: (batch, channels, height, width).
        teacher: the same batch; channels may differ, maps are pooled to the smaller size.
    Source: Huang & Wang, "Like What You Like: Neuron Selectivity Transfer", 2017, polynomial kernel d=2, c=0.
    """
    student, teacher = (F.normalize(feature.flatten(2), dim=2) for feature in pooled_alike(student, teacher))
    own, theirs, across = (
        torch.matmul(first, second.transpose(1, 2)).square().mean()
        for first, second in ((student, student), (teacher, teacher), (student, teacher))
    )
    return own + theirs - 2 * across


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The flow of solution procedure: how channels of one feature go with channels of a later one.

    Args:
        first: (batch, m, height, width).
        second: (batch, n, height', width'), the larger is max-pooled to the smaller.
    Returns:
        (batch, m, n), products averaged over places.
    Source: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017.
    """
    first, second = as_map(first), as_map(second)
    size = tuple(min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True))
    first, second = (F.adaptive_max_pool2d(feature, size).flatten(2) for feature in (first, second))
    return torch.matmul(first, second.transpose(1, 2)) / first.shape[2]


def _make_fitnet(setup: Setup) -> Term:
    kernel_size = int(setup.arguments["kernel"])
    if kernel_size % 2 == 0:
        raise InputError(f"loss_arg fitnet.kernel must be odd, got {kernel_size}")
    middle = len(setup.signals.features) // 2
    student, teacher = (as_map(feature) for feature in setup.signals.features[middle])
    regressor = seeded(setup.seed, lambda: Regressor(student, teacher, kernel_size))

    def compute(signals: DistillationBatch) -> Tensor:
        student, teacher = signals.features[middle]
        return hint(regressor(student), as_map(teacher))

    return Term(compute, [regressor])


def _make_flow(setup: Setup) -> Term:
    pairs = setup.signals.features
    if len(pairs) < 2:
        raise InputError("loss fsp needs two matched stages; name them with layers")
    widths = [[as_map(feature).shape[1] for feature in side] for side in zip(*pairs, strict=True)]
    # a 1x1 convolution where widths differ, since the matrices must have one shape
    adapters = [
        nn.Identity() if mine == theirs else seeded(setup.seed + number, partial(nn.Conv2d, mine, theirs, 1))
        for number, (mine, theirs) in enumerate(zip(*widths, strict=True))
    ]

    def compute(signals: DistillationBatch) -> Tensor:
        mine = [adapter(as_map(student)) for adapter, (student, _) in zip(adapters, signals.features, strict=True)]
        theirs = [teacher for _, teacher in signals.features]
        steps = range(len(theirs) - 1)
        return total(F.mse_loss(flow(mine[i], mine[i + 1]), flow(theirs[i], theirs[i + 1])) for i in steps)

    return Term(compute, [adapter for adapter in adapters if not isinstance(adapter, nn.Identity)])


def _make_gradient_attention(setup: Setup) -> Term:
    return Term(lambda signals: gradient_attention(*needed(signals.gradients)))


FITNET = Loss(_make_fitnet, weight=100.0, needs=("features",), arguments={"kernel": 3.0})
AT = Loss(on_stages(attention_transfer), weight=1000.0, needs=("features",))
AT_GRADIENT = Loss(_make_gradient_attention, weight=1000.0, needs=("gradients", "labels"))
NST = Loss(on_stages(selectivity), weight=50.0, needs=("features",))
FSP = Loss(_make_flow, weight=50.0, needs=("features",))
