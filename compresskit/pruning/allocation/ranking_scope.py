"""Which groups compete with each other: a scope sorts groups into pools."""

from __future__ import annotations

import re
from collections import defaultdict

from ..dependency.graph import Group


def local(groups: list[Group]) -> list[list[int]]:
    """Every group is a pool of its own."""
    return [[number] for number in range(len(groups))]


def everything(groups: list[Group]) -> list[list[int]]:
    """One pool."""
    return [list(range(len(groups)))]


def by_block(groups: list[Group]) -> list[list[int]]:
    """Groups whose layer stands in the same numbered block (`layer1.0.conv1` and `layer1.0.conv2`)."""
    pools: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        match = re.match(r"(.*\.\d+)\.", group.name)
        pools[match[1] if match else group.name].append(number)
    return list(pools.values())


def isomorphic(groups: list[Group]) -> list[list[int]]:
    """Groups with the same structure: the same kinds of tensors tied in the same number and order.

    Source: Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024: importance is comparable only among
    sub-structures with the same topology.
    """
    pools: dict[tuple, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        shape = tuple(
            sorted((m.stored.tensor.dim(), m.dim, m.consumes, tuple(m.stored.tensor.shape[2:])) for m in group.members)
        )
        pools[shape].append(number)
    return list(pools.values())
