"""What enters layers on calibration data: moments of their input rows, or the rows themselves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

import torch
from torch import Tensor, nn

from ...analysis.calibration.collect import collect
from ...analysis.calibration.im2col import input_rows, needs_window, output_positions, output_rows, window_of
from ...analysis.calibration.moments import InputMoments, Moments, Precision
from ...analysis.calibration.positions import per_batch
from ...core.tensors.modules import get_module
from ...core.types import Inputs
from ..surgery.find_layers import Site

_LARGEST_BYTES = 1_000_000_000  # covariances held at a time
#: rows are taken in float64; wider covariances in float32, because in float64 they would be slow and large
_PRECISION = Precision(products=torch.float64, sums=torch.float64, widest=1200)


def batches_of_sites(sites: list[Site]) -> Iterator[list[Site]]:
    """The sites in order, in runs whose covariances fit in memory together."""
    run: list[Site] = []
    size_bytes = 0
    for site in sites:
        wide = site.geometry.columns
        own = site.geometry.groups * wide**2 * _PRECISION.of(wide)[1].itemsize
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
        root: the model.
        sites: the layers.
        batches: inputs.
        rows: about how many rows to use a layer; positions are drawn at random where there are more.
        seed: of the draws, which are alike for layers that have equally many positions.
        device: where batches are moved first.
    Returns:
        layer name -> moments, of the layers that the data reaches.
    """
    limit = max(rows // max(len(batches), 1), 1)
    shared: dict[Hashable, InputMoments] = {}  # by what is read, and how
    wanted = {}
    for site in sites:
        layer = get_module(root, site.name)
        key = (site.reads or site.name, window_of(layer), type(layer))  # classes may pad by themselves
        if key not in shared:
            shared[key] = InputMoments(per_batch(limit, torch.Generator().manual_seed(seed)), _PRECISION)
        wanted[site.name] = shared[key]
    taken = collect(root, wanted, batches, device)
    results = {id(one): one.sums.result() for one in shared.values() if one.sums.count}
    return {name: results[id(one)] for name, one in taken.items()}


def samples(pairs: Iterable[tuple[Tensor, Tensor]], layer: nn.Module, limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Matching input and output rows of (layer input, wanted layer output) pairs, in float64 unless very wide."""
    sample = per_batch(limit, torch.Generator().manual_seed(seed))
    inputs, outputs = [], []
    for given, wanted in pairs:
        window = needs_window(layer, given)
        positions = sample(*output_positions(window, wanted))
        rows = input_rows(window, given, positions)
        dtype, _ = _PRECISION.of(rows.shape[2])
        inputs.append(rows.to(dtype))
        outputs.append(output_rows(window, wanted, positions).to(dtype))
    return torch.cat(inputs), torch.cat(outputs)
