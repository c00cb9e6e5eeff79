"""Weight sharing: a layer's weights take the values of a small k-means codebook."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tables import CODEBOOK_STARTS

_ROUNDS = 300


def linear_start(ordered: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids at equal distances between the smallest and the largest value."""
    return torch.linspace(float(ordered[0]), float(ordered[-1]), count, dtype=ordered.dtype)


def density_start(ordered: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids at equal steps of the cumulative distribution."""
    places = (torch.arange(count) + 0.5) / count * len(ordered)
    return ordered[places.long().clamp(max=len(ordered) - 1)]


def random_start(ordered: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids at values drawn without replacement."""
    chosen = torch.randperm(len(ordered), generator=generator)[:count]
    found = ordered[chosen].sort().values
    return torch.cat([found, found[-1:].expand(count - len(found))])


def kmeans(values: Tensor, count: int, start: str = "linear", seed: int = 0) -> Tensor:
    """Centroids of one-dimensional k-means, by Lloyd's rounds until nothing moves.

    On sorted values an assignment is a set of boundaries and a centroid a difference of cumulative sums, so a round
    costs `count` binary searches.

    Args:
        values: any shape, at least one element.
        count: centroids.
        start: a row of CODEBOOK_STARTS.
        seed: for the random start.
    Returns:
        (count,) float32, ascending; a centroid that no value is nearest to stays where it was.
    Source: Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
        Huffman Coding", ICLR 2016, eq. 2 and section 3.2.
    """
    ordered = values.detach().reshape(-1).double().cpu().sort().values
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), ordered.cumsum(0)])
    generator = torch.Generator().manual_seed(seed)
    centroids = CODEBOOK_STARTS.load(start)(ordered, count, generator).double()
    for _ in range(_ROUNDS):
        borders = torch.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        edges = torch.cat([torch.zeros(1, dtype=torch.long), borders, torch.tensor([len(ordered)])])
        sizes = edges[1:] - edges[:-1]
        means = (sums[edges[1:]] - sums[edges[:-1]]) / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.float()


def nearest_centroid(values: Tensor, centroids: Tensor) -> Tensor:
    """Index of the centroid nearest to each value, shaped like values, int64; centroids ascending."""
    return torch.searchsorted((centroids[1:] + centroids[:-1]) / 2, values.contiguous())


def share_weights(matrix: Tensor, bits: int, start: str, seed: int, *, keep_zeros: str) -> tuple[Tensor, Tensor]:
    """Codebook and indices of a weight matrix.

    Args:
        matrix: (rows, columns).
        bits: bits an index.
        start: a row of CODEBOOK_STARTS.
        seed: for the random start.
        keep_zeros: "as-index-0" sets index 0 apart for weights that are exactly zero; the codebook then has one
            entry fewer and holds only the others. "no" treats zero like any value.
    Returns:
        centroids, (2**bits,) or (2**bits - 1,); indices, (rows, columns) int64.
    """
    if keep_zeros == "no":
        centroids = kmeans(matrix, 1 << bits, start, seed)
        return centroids, nearest_centroid(matrix, centroids)
    used = matrix != 0
    count = (1 << bits) - 1
    if not bool(used.any()):
        return torch.zeros(count), torch.zeros(matrix.shape, dtype=torch.long)
    centroids = kmeans(matrix[used], count, start, seed)
    indices = nearest_centroid(matrix, centroids) + 1
    return centroids, torch.where(used, indices, torch.zeros_like(indices))
