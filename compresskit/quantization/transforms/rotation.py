"""Rotating what flows between a transformer's layers, folded into the weights: outliers spread over all channels.

The model computes what it did, and its weights and activations have fewer large entries.

Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024, section 4, stages 1a and
    1b, without the rotations that need arithmetic at run time; for normalizations that subtract the mean Ashkboos et
    al., "SliceGPT", ICLR 2024, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compresskit.core.types import Loaded

from ...analysis.stream.stream import find_stream
from ...analysis.stream.turning import turn_stream


def rotate(loaded: Loaded, seed: int) -> int:
    """Turn a transformer's stream and its values in place; a head that shares its weights gets its own.

    Returns:
        how many layers were changed.
    Raises:
        InputError: if the model has no stream that is known, or its outputs change.
    """
    generator, stream = torch.Generator().manual_seed(seed), find_stream(loaded)
    turn = (keeping_the_mean if stream.centred else orthogonal)(stream.width, generator)
    turn_stream(loaded, stream, turn, lambda head: orthogonal(head, generator))
    return len(stream.writers) + sum(map(len, stream.readers.values())) + len(stream.embeddings)


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A random Hadamard matrix with unit rows, (size, size) float64; what is odd of the size is a random rotation.

    Source: Ashkboos et al., 2024, section 3.
    """
    power = size & -size
    found = torch.ones(1, 1, dtype=torch.float64)
    while len(found) < power:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)]) / 2**0.5
    if power < size:
        drawn = torch.randn(size // power, size // power, generator=generator, dtype=torch.float64)
        found = torch.kron(torch.linalg.qr(drawn).Q.contiguous(), found)
    signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1
    return signs.double()[:, None] * found


def keeping_the_mean(size: int, generator: torch.Generator) -> Tensor:
    """A rotation under which a vector of mean zero stays one: it turns what is orthogonal to the ones vector."""
    drawn = torch.eye(size, dtype=torch.float64)
    drawn[:, 0] = size**-0.5
    basis = torch.linalg.qr(drawn).Q  # the first column is the ones vector's direction
    inner = torch.eye(size, dtype=torch.float64)
    inner[1:, 1:] = orthogonal(size - 1, generator)
    return basis @ inner @ basis.T
