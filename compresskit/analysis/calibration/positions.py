"""Which output positions of a layer count, where a batch has more than are needed.

A sampler takes the examples of a batch and the output positions of each, and returns indices into the flattened
(examples, positions); None stands for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[int, int], Tensor | None]


def distinct(count: int, limit: int, generator: torch.Generator) -> Tensor | None:
    """At most `limit` of `count` positions, none of them twice, (limit,); None for all."""
    return None if count <= limit else torch.randperm(count, generator=generator)[:limit]


def of_every_example(chosen: Tensor | None, examples: int, positions: int) -> Tensor | None:
    """The same positions of every example, as a sampler returns them, (examples * chosen,)."""
    if chosen is None:
        return None
    return (torch.arange(examples)[:, None] * positions + chosen).flatten()


def per_example(limit: int, generator: torch.Generator) -> Sampler:
    """Samples at most `limit` positions, the same of every example of a batch.

    Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1.
    """
    return lambda examples, positions: of_every_example(distinct(positions, limit, generator), examples, positions)


def per_batch(limit: int, generator: torch.Generator) -> Sampler:
    """Samples at most `limit` positions of a batch, none of them twice."""
    return lambda examples, positions: distinct(examples * positions, limit, generator)


def drawn_per_batch(limit: int, generator: torch.Generator) -> Sampler:
    """Samples `limit` positions of a larger batch, with replacement; the draw costs no permutation of the batch."""

    def sample(examples: int, positions: int) -> Tensor | None:
        count = examples * positions
        return None if count <= limit else torch.randint(count, (limit,), generator=generator)

    return sample
