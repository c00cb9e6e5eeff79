"""Weight sharing: a layer's weights take the values of a small k-means codebook."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..layers.layer_spec import Spec
from ..tables import CODEBOOK_STARTS
from .base import BaseFormat
from .fixed_groups.lookups import Lookup
from .number_format import Parts, Settings, Stored

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
    return centroids.float().to(values.device)


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
        return matrix.new_zeros(count, dtype=torch.float32), torch.zeros_like(matrix, dtype=torch.long)
    centroids = kmeans(matrix[used], count, start, seed)
    indices = nearest_centroid(matrix, centroids) + 1
    return centroids, torch.where(used, indices, torch.zeros_like(indices))


class Codebook(BaseFormat):
    """value = codebook[code]: a layer's weights share the values of a k-means codebook, which training tunes.

    Weights that were pruned stay zero: where there are any, index 0 stands for them, and the codebook has one entry
    fewer.

    Source: Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
        Huffman Coding", ICLR 2016, section 3.
    """

    bits = 4
    granularity = "tensor"
    options = frozenset({"bits", "bits_for", "codebook_start", "coding"})

    @property
    def bits_range(self) -> tuple[int, int]:
        """The fewest and most bits that it can have."""
        return 1, 8

    def fitted(self, spec: Spec, matrices: list[Tensor]) -> Spec:
        """The spec, with an index for zeros where there are any."""
        return replace(spec, zero_index=any(bool((matrix == 0).any()) for matrix in matrices))

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """The shared values, a parameter, so that any training step tunes them."""
        entries = (1 << spec.bits) - spec.zero_index
        return {"codebook": Stored((entries,), torch.float32, "codebooks", trained=True)}

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The codebook and each weight's index."""
        keep_zeros = "as-index-0" if spec.zero_index else "no"
        start = settings.options.codebook_start
        codebook, indices = share_weights(matrix, spec.bits, start, settings.seed, keep_zeros=keep_zeros)
        return {"values": indices, "codebook": codebook}

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """codebook[code]."""
        codebook = parts["codebook"]
        codebook = torch.nn.functional.pad(codebook, (1, 0)) if spec.zero_index else codebook
        return codebook[parts["values"].long()]

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """The codebook is the table."""
        codebook = parts["codebook"].detach()
        codebook = torch.nn.functional.pad(codebook, (1, 0)) if spec.zero_index else codebook
        return Lookup(codebook, parts["values"].to(torch.uint8))

    def granularity_label(self, spec: Spec) -> str:
        """What reports say of which weights share values."""
        return "codebook"


#: the row "codebook"
CODEBOOK = Codebook()
