"""Criteria: how important each unit of a group is. One function each; `tables.CRITERIA` lists them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...analysis.calibration.channels import Average
from ...core.tensors.modules import tensor_of
from ..dependency.graph import Group, Member
from .calibration_statistics import Evidence
from .optimal_brain_surgeon import Reader, eliminate

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


def lamp(group: Group, evidence: Evidence) -> Tensor:
    """Layer-adaptive magnitude: each unit's squared norm over the sum of those that are not smaller.

    Source: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, eq. 4, for units.
    """
    energy = l2(group, evidence).square()
    order = energy.argsort(descending=True)
    scores = torch.empty_like(energy)
    scores[order] = energy[order] / energy[order].cumsum(0).clamp_min(1e-30)
    return scores


def bn_scale(group: Group, evidence: Evidence) -> Tensor:
    """Absolute scale of the BatchNorm (or other affine norm) behind each unit; L2 where there is none.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017.
    """
    norms = [m for m in group.members if m.stored.tensor.dim() == 1 and m.name.endswith(".weight")]
    if not norms:
        return l2(group, evidence)
    rows = [unit_sums(member, evidence.tensor(member).abs()) for member in norms]
    return _REDUCTIONS[evidence.reduction](torch.stack(rows))


def fpgm(group: Group, evidence: Evidence) -> Tensor:
    """Distance of each unit's filters to all others: what others can stand in for goes first.

    Source: He et al., "Filter Pruning via Geometric Median", CVPR 2019, eq. 5.
    """
    rows = []
    for member in weights(group):
        if member.consumes:
            continue
        places = torch.from_numpy(member.positions)
        filters = evidence.tensor(member).movedim(member.dim, 0).double()[places]  # (units, places, ...)
        flat = filters.flatten(1).cpu()
        rows.append(torch.cdist(flat, flat).sum(1))
    return _REDUCTIONS[evidence.reduction](torch.stack(rows)) if rows else l2(group, evidence)


def taylor(group: Group, evidence: Evidence) -> Tensor:
    """First-order change of the loss when a unit's weights go to zero.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, eq. 8.
    """
    return combine(group, evidence, lambda m: (evidence.tensor(m) * _gradient(evidence.gradients.mean, m)).abs())


def fisher(group: Group, evidence: Evidence) -> Tensor:
    """Second-order change of the loss with the empirical Fisher as the diagonal of the Hessian.

    Source: LeCun et al., "Optimal Brain Damage", NeurIPS 1989, eq. 5; Theis et al., "Faster gaze prediction with dense
    networks and Fisher pruning", 2018.
    """
    return combine(group, evidence, lambda m: evidence.tensor(m).square() * _gradient(evidence.gradients.square, m))


def _gradient(found: dict[str, Tensor], member: Member) -> Tensor:
    for name in member.stored.names:
        if name in found:
            return found[name]
    return torch.zeros_like(member.stored.tensor)


def activation_taylor(group: Group, evidence: Evidence) -> Tensor:
    """First-order change of the loss when a unit's activations go to zero.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
    eq. 4.
    """
    return _from_channels(group, evidence, evidence.effects)


def activation(group: Group, evidence: Evidence) -> Tensor:
    """Mean absolute activation of each unit where it is read."""
    return _from_channels(group, evidence, _each(evidence, "magnitude"))


def apoz(group: Group, evidence: Evidence) -> Tensor:
    """Share of activations that are not zero.

    Source: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach", 2016.
    """
    return 1 - _from_channels(group, evidence, _each(evidence, "zero"), average=True)


def variance(group: Group, evidence: Evidence) -> Tensor:
    """Variance of each unit's activations: a constant one can move into a bias."""
    mean, square = (
        _from_channels(group, evidence, _each(evidence, kind), average=True) for kind in ("value", "square")
    )
    return (square - mean.square()).clamp_min(0)


def _each(evidence: Evidence, kind: Average) -> dict[str, Tensor]:
    """An average of the input channels of each layer."""
    return {name: one.mean(kind) for name, one in evidence.channels.items()}


def _from_channels(group: Group, evidence: Evidence, channels: dict[str, Tensor], average: bool = False) -> Tensor:
    """A statistic of the layers that read a unit, summed (or averaged) over its places."""
    rows = []
    for member in group.members:
        if evidence.is_reader(member) and evidence.layer(member)[0] in channels:
            values = channels[evidence.layer(member)[0]][torch.from_numpy(member.positions)]
            rows.append(values.mean(1) if average else values.sum(1))
    if not rows:
        return torch.ones(len(group), dtype=torch.float64) if average else l1(group, evidence)
    return _REDUCTIONS[evidence.reduction](torch.stack(rows))


def wanda(group: Group, evidence: Evidence) -> Tensor:
    """Sum of |weight| times the norm of the activation it multiplies, over the layers that read a unit.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, eq. 1, for
    units.
    """
    rows = []
    for member in group.members:
        if evidence.is_reader(member) and evidence.layer(member)[0] in evidence.channels:
            norm = evidence.channels[evidence.layer(member)[0]].mean("square").sqrt()
            weight = evidence.tensor(member).abs().double().cpu()
            view = (1, -1) + (1,) * (weight.dim() - 2)
            rows.append(unit_sums(member, weight * norm.view(view)))
    return _REDUCTIONS[evidence.reduction](torch.stack(rows)) if rows else l1(group, evidence)


def reconstruction(group: Group, evidence: Evidence) -> Tensor:
    """Error that greedy removal of each unit adds to the outputs of the layers that read it, after refitting them.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, eq. 1, solved
    greedily with the updates of Optimal Brain Surgeon (Hassibi & Stork, 1992).
    """
    return _eliminated(group, evidence, None)


def reconstruction_loss(group: Group, evidence: Evidence) -> Tensor:
    """The same error, each output weighted by how much the loss minds it, so that layers compare with each other.

    The change of the loss is taken to second order with the empirical Fisher information of the outputs: half the
    sum over
    outputs of E[(dL/dy)^2] E[(error of y)^2].
    """
    return _eliminated(group, evidence, evidence.sensitivity)


def _eliminated(group: Group, evidence: Evidence, sensitivity: dict[str, Tensor] | None) -> Tensor:
    readers = []
    for member in group.members:
        if evidence.reads(member) and evidence.layer(member)[0] in evidence.moments:
            layer, module = evidence.layer(member)
            whole = tensor_of(module)
            weight = whole.detach().flatten(1)
            places = torch.from_numpy(member.positions)
            kernel = weight.shape[1] // whole.shape[1]
            columns = (places.unsqueeze(-1) * kernel + torch.arange(kernel)).reshape(len(group), -1)
            scale = None if sensitivity is None else sensitivity[layer]
            readers.append(Reader(evidence.moments[layer].covariance()[0], weight, columns, output_scale=scale))
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
    return per_unit(member, values.double()).cpu()


def per_unit(member: Member, values: Tensor) -> Tensor:
    """The same in the tensor's own type and on its device, differentiable."""
    others = [d for d in range(values.dim()) if d != member.dim]
    per_position = values.sum(others) if others else values
    return per_position[torch.from_numpy(member.positions).to(values.device)].sum(1)
