"""Criteria: how important each unit of a group is. One function each; `tables.CRITERIA` lists them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .elimination import Reader, eliminate
from .evidence import Evidence
from .graph import Group, Member

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda scores: scores.sum(0),
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.amax(0),
    "first": lambda scores: scores[0],
}


def random(group: Group, evidence: Evidence) -> Tensor:
    """Uniform random scores."""
    return torch.rand(len(group), generator=evidence.generator, dtype=torch.float64)


def l1(group: Group, evidence: Evidence) -> Tensor:
    """Sum of absolute weights of each unit.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.
    """
    return combine(group, evidence, lambda member: evidence.tensor(member).abs())


def l2(group: Group, evidence: Evidence) -> Tensor:
    """Euclidean norm of the weights of each unit."""
    return combine(group, evidence, lambda member: evidence.tensor(member).square()).sqrt()


def reconstruction(group: Group, evidence: Evidence) -> Tensor:
    """Error that greedy removal of each unit adds to the outputs of the layers that read it, after refitting them.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, eq. 1, solved
    greedily with the updates of Optimal Brain Surgeon (Hassibi & Stork, 1992).
    """
    readers = []
    for member in group.members:
        if evidence.reads(member) and evidence.layer(member)[0] in evidence.moments:
            layer, module = evidence.layer(member)
            weight = module.weight.detach().flatten(1)
            places = torch.from_numpy(member.positions)
            kernel = weight.shape[1] // module.weight.shape[1]
            columns = (places.unsqueeze(-1) * kernel + torch.arange(kernel)).reshape(len(group), -1)
            readers.append(Reader(evidence.moments[layer].centered(), weight, columns))
    if not readers:
        return l2(group, evidence).square() / l2(group, evidence).square().sum().clamp_min(1e-12)
    return eliminate(readers, len(group))


def weights(group: Group) -> list[Member]:
    """Members that are weights of layers, makers and readers; where there are none, all members."""
    found = [m for m in group.members if m.stored.tensor.dim() > 1]
    return found or list(group.members)


def combine(group: Group, evidence: Evidence, saliency: Callable[[Member], Tensor]) -> Tensor:
    """Scores from a saliency of every element of every weight: summed for each unit, then reduced over layers.

    Args:
        saliency: member -> tensor of the member's own shape, non-negative.
    Returns:
        (units,) float64.
    """
    rows = [unit_sums(member, saliency(member)) for member in weights(group)]
    return _REDUCTIONS[evidence.reduction](torch.stack(rows))


def unit_sums(member: Member, values: Tensor) -> Tensor:
    """Sums of a tensor's elements over the places of each unit, (units,) float64."""
    others = [d for d in range(values.dim()) if d != member.dim]
    per_position = values.double().sum(others) if others else values.double()
    return per_position[torch.from_numpy(member.positions).to(values.device)].sum(1).cpu()
