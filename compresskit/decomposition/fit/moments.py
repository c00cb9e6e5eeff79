"""Means and covariances of what enters a layer, from calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...analysis.calibration.hooks import stream
from ...core.types import Inputs
from ..methods.geometry import Geometry
from ..surgery.find_layers import Site

_LARGEST_BYTES = 1_000_000_000  # covariances held at a time
_DOUBLE_COLUMNS = 1200  # wider covariances are kept in float32: in float64 they would be slow and large


@dataclass
class Moments:
    """First and second moments of a layer's input patches.

    Attributes:
        count: rows seen.
        mean: (groups, columns), columns = in / groups * taps.
        covariance: (groups, columns, columns).
    """

    count: int
    mean: Tensor
    covariance: Tensor


def input_rows(geometry: Geometry, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """What each output position of a layer reads.

    Args:
        inputs: (batch, in, *size), or (..., in) for a linear layer.
        positions: which output positions, as indices into the flattened (batch, *output size); None for all.
    Returns:
        (rows, groups, in / groups * taps).
    """
    if not geometry.kernel:
        rows = inputs.reshape(-1, 1, geometry.in_channels)
        return rows if positions is None else rows[positions]
    axes = len(geometry.kernel)
    inputs = inputs if inputs.dim() == axes + 2 else inputs[None]
    transposed = geometry.form == "conv-transpose"
    windows = _stretch(geometry, inputs) if transposed else _pad(geometry, inputs)
    for axis in range(axes):
        reach = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, 1 if transposed else geometry.stride[axis])
    for axis in range(axes):
        windows = windows.movedim(2 + axes + axis, -1)[..., :: geometry.dilation[axis]].movedim(-1, 2 + axes + axis)
    windows = windows.movedim(1, 1 + axes)  # (batch, *output size, in, *kernel)
    sizes = windows.shape[: axes + 1]
    if positions is None:
        positions = torch.arange(torch.Size(sizes).numel(), device=inputs.device)
    picked = windows[torch.unravel_index(positions, sizes)]  # copies only the rows asked for
    if transposed:
        picked = picked.flip(tuple(range(2, 2 + axes)))
    return picked.reshape(len(positions), geometry.groups, -1)


def output_rows(geometry: Geometry, outputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """A layer's outputs at the same positions, (rows, out)."""
    if geometry.kernel:
        outputs = outputs if outputs.dim() == len(geometry.kernel) + 2 else outputs[None]
        outputs = outputs.movedim(1, -1)
    rows = outputs.reshape(-1, geometry.out_channels)
    return rows if positions is None else rows[positions]


def sample_positions(count: int, limit: int, generator: torch.Generator) -> Tensor | None:
    """At most `limit` of `count` positions; None stands for all."""
    return None if count <= limit else torch.randperm(count, generator=generator)[:limit]


def _pad(geometry: Geometry, inputs: Tensor) -> Tensor:
    if geometry.padding == "valid":
        return inputs
    sides = []
    for axis in reversed(range(len(geometry.kernel))):
        if geometry.padding == "same":
            total = geometry.dilation[axis] * (geometry.kernel[axis] - 1)
            sides += [total // 2, total - total // 2]
        else:
            sides += [geometry.padding[axis]] * 2
    mode = "constant" if geometry.padding_mode == "zeros" else geometry.padding_mode
    return F.pad(inputs, sides, mode=mode) if any(sides) else inputs


def _stretch(geometry: Geometry, inputs: Tensor) -> Tensor:
    """The input whose windows, read backwards at stride 1, give a transposed convolution: zeros between and around."""
    sides = []
    for axis in range(len(geometry.kernel)):
        size, stride = inputs.shape[2 + axis], geometry.stride[axis]
        wide = inputs.new_zeros(*inputs.shape[: 2 + axis], (size - 1) * stride + 1, *inputs.shape[3 + axis :])
        wide.movedim(2 + axis, 0)[::stride] = inputs.movedim(2 + axis, 0)
        inputs = wide
        around = geometry.dilation[axis] * (geometry.kernel[axis] - 1) - geometry.padding[axis]
        sides = [around, around + geometry.output_padding[axis], *sides]  # F.pad takes the last axis first
    return F.pad(inputs, sides)


def columns(geometry: Geometry) -> int:
    """Length of one row of `input_rows`."""
    return geometry.in_channels // geometry.groups * geometry.taps


def batches_of_sites(sites: list[Site]) -> Iterator[list[Site]]:
    """The sites in order, in runs whose covariances fit in memory together."""
    run: list[Site] = []
    size_bytes = 0
    for site in sites:
        wide = columns(site.geometry)
        own = site.geometry.groups * wide**2 * (8 if wide <= _DOUBLE_COLUMNS else 4)
        if run and size_bytes + own > _LARGEST_BYTES:
            yield run
            run, size_bytes = [], 0
        run.append(site)
        size_bytes += own
    if run:
        yield run


def collect_moments(
    root: nn.Module, sites: list[Site], batches: list[Inputs], *, rows: int, seed: int, device: torch.device
) -> dict[str, Moments]:
    """Moments of the inputs of several layers in one pass over the data.

    Args:
        rows: about how many rows to use a layer; positions are drawn at random where there are more.
    """
    limit = max(rows // max(len(batches), 1), 1)
    sums = {site.name: _Sums(site.geometry, limit, seed) for site in sites}
    stream(root, batches, {name: one.add for name, one in sums.items()}, device)
    return {name: one.moments() for name, one in sums.items()}


class _Sums:
    def __init__(self, geometry: Geometry, limit: int, seed: int):
        self.geometry, self.limit = geometry, limit
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0
        self.dtype = torch.float64 if columns(geometry) <= _DOUBLE_COLUMNS else torch.float32

    def add(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        count = output.numel() // self.geometry.out_channels
        positions = sample_positions(count, self.limit, self.generator)
        rows = input_rows(self.geometry, inputs[0], positions).to(self.dtype)
        self.count += len(rows)
        self.first = self.first + rows.sum(0)
        self.second = self.second + torch.einsum("ngi,ngj->gij", rows, rows)

    def moments(self) -> Moments:
        mean = self.first / self.count
        covariance = self.second / self.count - mean[:, :, None] * mean[:, None, :]
        return Moments(self.count, mean, covariance)


def moments_of_rows(rows: Tensor) -> Moments:
    """Moments of rows held in memory, (rows, groups, columns)."""
    mean = rows.mean(0)
    centred = rows - mean
    return Moments(len(rows), mean, torch.einsum("ngi,ngj->gij", centred, centred) / len(rows))


def regression(inputs: Tensor, outputs: Tensor, moments: Moments, start: Tensor, ridge: float = 1e-4) -> Tensor:
    """The linear map from input rows to output rows of least squared error, with a ridge towards a starting map.

    Args:
        inputs: (rows, groups, columns).
        outputs: (rows, out), out in group order.
        start: (out, columns).
    Returns:
        (out, columns).
    """
    groups = inputs.shape[1]
    maps = []
    for group, (own, begin) in enumerate(zip(outputs.chunk(groups, 1), start.chunk(groups), strict=True)):
        centred = inputs[:, group] - moments.mean[group]
        residual = own - own.mean(0) - centred @ begin.mT
        covariance = moments.covariance[group]
        damp = ridge * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        change = torch.linalg.solve(covariance + damp * eye, centred.mT @ residual / len(centred))
        maps.append(begin + change.mT)
    return torch.cat(maps)


def samples(pairs: Iterable[tuple[Tensor, Tensor]], geometry: Geometry, limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Matching input and output rows of (layer input, wanted layer output) pairs, in float64 unless very wide."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if columns(geometry) <= _DOUBLE_COLUMNS else torch.float32
    inputs, outputs = [], []
    for given, wanted in pairs:
        positions = sample_positions(wanted.numel() // geometry.out_channels, limit, generator)
        inputs.append(input_rows(geometry, given, positions).to(dtype))
        outputs.append(output_rows(geometry, wanted, positions).to(dtype))
    return torch.cat(inputs), torch.cat(outputs)
