"""Transformations that leave a network's function as it was: wider and deeper layers.

Source: Chen, Goodfellow & Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.errors import InputError, ShapeError
from ...model.chain import Chain, ConvUnit


def widening_map(channels: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Which old channel each new one copies: the old ones in order, then random ones among them.

    Args:
        channels: old count.
        wanted: new count, at least as large.
        generator: draws the copies.
    Returns:
        (wanted,) of old indices.
    Raises:
        InputError: if the layer would become narrower.
    Source: Chen et al., Net2Net, eq. 1 (the mapping g).
    """
    if wanted < channels:
        raise InputError(f"a layer of {channels} channels cannot be widened to {wanted}")
    drawn = torch.randint(channels, (wanted - channels,), generator=generator)
    return torch.cat([torch.arange(channels), drawn])


def uneven_shares(mapping: Tensor, generator: torch.Generator) -> Tensor:
    """Random positive shares that add up to 1 over the copies of each channel; (wanted,).

    With equal shares copies get equal gradients and stay copies for ever; the paper adds noise against that, which
    changes the function. Uneven shares part the copies and keep the function.
    """
    raw = 0.5 + torch.rand(len(mapping), generator=generator, dtype=torch.float64)
    totals = torch.zeros(int(mapping.max()) + 1, dtype=torch.float64).index_add_(0, mapping, raw)
    return raw / totals[mapping]


def net2wider(weight: Tensor, following: Tensor, mapping: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Widen a layer: its filters are copied, and what reads them is divided among the copies.

    Args:
        weight: of the layer, (out, ...).
        following: of the layer that reads it, (next out, out, ...).
        mapping: old index of each new channel, (wanted,).
        shares: of each copy, adding up to 1 over the copies of one channel, (wanted,).
    Returns:
        (wanted, ...) and (next out, wanted, ...).
    Raises:
        ShapeError: if the second weight does not read the first.
    Source: Chen et al., Net2Net, eq. 2.
    """
    if following.shape[1] != weight.shape[0]:
        raise ShapeError(f"a weight of {following.shape[1]} inputs does not read a layer of {weight.shape[0]} channels")
    factor = shares.to(following).reshape(1, -1, *[1] * (following.dim() - 2))
    return weight[mapping].clone(), following[:, mapping] * factor


def net2deeper(channels: int, kernel: int) -> Tensor:
    """The weight of a convolution that passes its input on: one at the centre of its own channel.

    Args:
        channels: in and out.
        kernel: odd side.
    Returns:
        (channels, channels, kernel, kernel).
    Source: Chen et al., Net2Net, section 2.3.
    """
    weight = torch.zeros(channels, channels, kernel, kernel)
    weight[range(channels), range(channels), kernel // 2, kernel // 2] = 1
    return weight


def undo_norm(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Set a BatchNorm so that it passes on what has this mean and variance: gamma undoes the scale, beta the shift.

    Args:
        norm: changed in place.
        mean, variance: of its inputs, (channels,).
    Source: Chen et al., Net2Net, section 2.3.
    """
    with torch.no_grad():
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(variance)
        norm.weight.copy_((variance.double() + norm.eps).sqrt())
        norm.bias.copy_(mean)


def convolutions(net: Chain) -> list[int]:
    """Positions of the layers of a chain that can be widened."""
    return list(_conv_units(net))


def _conv_units(net: Chain) -> dict[int, ConvUnit]:
    return {number: unit for number, unit in enumerate(net.layers) if isinstance(unit, ConvUnit)}


@torch.no_grad()
def widened(net: Chain, position: int, wanted: int, generator: torch.Generator) -> None:
    """Widen a convolution of a chain, in place; the outputs in evaluation stay as they were.

    Args:
        net: a chain of convolutions and pools.
        position: of the layer.
        wanted: channels.
        generator: draws the copies and their shares.
    """
    units = _conv_units(net)
    unit = units[position]
    mapping = widening_map(unit.conv.out_channels, wanted, generator)
    shares = uneven_shares(mapping, generator)
    reader: nn.Conv2d | nn.Linear = next((units[n].conv for n in units if n > position), net.classifier)
    weight, following = net2wider(unit.conv.weight, reader.weight, mapping, shares)
    unit.conv.weight, reader.weight = nn.Parameter(weight), nn.Parameter(following)
    unit.conv.out_channels = wanted
    if isinstance(reader, nn.Linear):
        reader.in_features = wanted
    else:
        reader.in_channels = wanted
    norm = nn.BatchNorm2d(wanted).train(unit.training)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).copy_(getattr(unit.norm, name)[mapping])
    unit.norm = norm


@torch.no_grad()
def deepened(net: Chain, position: int, kernel: int, examples: Tensor) -> None:
    """Put a convolution after a layer of a chain, in place; the outputs in evaluation stay as they were.

    The layer before it ends in a ReLU, so the new one's ReLU changes nothing.

    Args:
        net: a chain.
        position: of the layer after which it stands.
        kernel: its odd side.
        examples: inputs, (batch, channels, height, width), whose activations the new BatchNorm is set for.
    """
    net.eval()
    seen = examples
    for unit in net.layers[: position + 1]:
        seen = unit(seen)
    channels = seen.shape[1]
    unit = ConvUnit(channels, channels, kernel)
    unit.conv.weight.copy_(net2deeper(channels, kernel))
    undo_norm(unit.norm, seen.mean((0, 2, 3)), seen.var((0, 2, 3), unbiased=False))
    units = list(net.layers)
    net.layers = nn.Sequential(*units[: position + 1], unit.eval(), *units[position + 1 :])
