"""Gradient steps that bring an output back to the one it had, judged on examples that were held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...training.optim import cosine

#: share of the batches that no step sees, and the most of them
_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.125, 16


@dataclass(frozen=True)
class Group:
    """Tensors that are tuned with one learning rate.

    Attributes:
        tensors: leaves of the graph.
        lr: peak learning rate; Adam moves each number by about as much a step.
        keeps_zeros: whether what is zero stays zero.
    """

    tensors: list[Tensor]
    lr: float
    keeps_zeros: bool = False


@dataclass(frozen=True)
class Outcome:
    """Mean errors on the held-out batches; tensors were put back where theirs did not fall.

    Attributes:
        before, after: relative squared errors.
        kept: whether what was tuned was kept.
    """

    before: float
    after: float
    kept: bool

    def __str__(self) -> str:
        said = f"held-out error {self.before:.4f} -> {self.after:.4f}"
        return said if self.kept else f"{said}, so its weights stay"


def variance(batches: Iterable[Tensor]) -> float:
    """Variance of all numbers in batches, which are looked at one after the other.

    Source: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979,
    eq. 2.1.
    """
    count, mean, squares = 0, 0.0, 0.0
    for one in batches:
        if not one.numel():
            continue
        own = one.double()
        own_count, own_mean = own.numel(), float(own.mean())
        gap, total = own_mean - mean, count + own_count
        squares += float((own - own_mean).square().sum()) + gap**2 * count * own_count / total
        count, mean = total, mean + gap * own_count / total
    return max(squares / max(count, 1), 1e-20)


def held_out(count: int) -> int:
    """How many of so many batches no step sees."""
    return min(max(round(count * _HELD_OUT_SHARE), 1), _MOST_HELD_OUT) if count > 1 else 0


def fit(
    error: Callable[[int], Tensor],
    batches: int,
    groups: Sequence[Group],
    *,
    iterations: int,
    generator: torch.Generator,
) -> Outcome:
    """Minimize a mean error over batches by Adam, one batch a step.

    Steps go through the batches in a random order, again and again, with a learning rate that falls along half a
    cosine. Where the held-out batches end with a larger error, the tensors are what they were before.

    Args:
        error: of the batch of that number, a scalar that is differentiable in the tensors of the groups.
        batches: how many there are; the last of them are held out.
        groups: what is tuned.
        iterations: how many steps.
        generator: draws the order of the batches.
    """
    train = batches - held_out(batches)
    judges = range(train, batches) if train < batches else range(batches)
    tensors = [tensor for group in groups for tensor in group.tensors]
    first = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def judged() -> float:
        return sum(float(error(number)) for number in judges) / len(judges)

    before = judged()
    zeros = [(one, one.detach() == 0) for group in groups if group.keeps_zeros for one in group.tensors]
    optimizer = torch.optim.Adam([dict(params=group.tensors, lr=group.lr) for group in groups])  # noqa: C408
    order: list[int] = []
    for step in range(iterations):
        order = order or torch.randperm(train, generator=generator).tolist()
        for entry, group in zip(optimizer.param_groups, groups, strict=True):
            entry["lr"] = cosine(group.lr, 0.0, step / iterations)
        optimizer.zero_grad()
        error(order.pop()).backward()
        optimizer.step()
        for tensor, mask in zeros:
            tensor.data.masked_fill_(mask, 0.0)  # a product could leave a negative zero, which is stored as a value
    after = judged()
    kept = after < before
    if not kept:
        with torch.no_grad():
            for tensor, value in zip(tensors, first, strict=True):
                tensor.copy_(value)
    return Outcome(before, after, kept)
