"""Ids of channels, and the id planes that travel beside activations.

A *plane* is an int64 tensor of an activation's own shape: each element names the channel that the activation's
element belongs to. Dimensions along which a plane does not change have stride 0, so a plane of a
(1, 64, 112, 112) activation holds 64 numbers. An activation has one plane for each independent way in which it can
shrink: (batch, channels, tokens) in an MLP-mixer has one that changes along channels and one along tokens. An
    element goes
away when any of its planes' ids goes away.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

#: the id of everything that can never be removed
PINNED = 0


class Frozen(NamedTuple):
    """An axis whose length cannot change: the ids along it go together; `rows` holds one id for each other position."""

    rows: np.ndarray
    reason: str


class Ids:
    """A growing set of integer ids and the pairs of them that were found to belong together.

    Args:
        like: ids that another run of the same model made; this one gives out the same, whatever order it asks in.
    """

    def __init__(self, like: Ids | None = None) -> None:
        self.count: int = 1 if like is None else like.count  # id 0 is PINNED
        self.given: dict[Hashable, Tensor] = {}  # what for -> ids
        self._like = like
        self._unnamed = 0
        self.frozen: list[Frozen] = []
        self.pinned: list[Frozen] = []
        self._edges: list[np.ndarray] = []
        self.edge_sites: list[str] = []
        self._seen: set[bytes] = set()

    def new(self, count: int, what: Hashable = None) -> Tensor:
        """Fresh ids, (count,).

        Args:
            count: how many.
            what: what they are for; None counts those that are for nothing with a name.
        """
        if what is None:
            what, self._unnamed = self._unnamed, self._unnamed + 1
        if self._like is not None:
            ids = self._like.given.get(what)
            return ids if ids is not None and len(ids) == count else torch.full((count,), PINNED)
        ids = torch.arange(self.count, self.count + count)
        self.count += count
        self.given[what] = ids
        return ids

    def unite(self, left: Tensor, right: Tensor, site: str = "") -> None:
        """Record that ids at equal positions belong together; the two broadcast against each other."""
        if left is right:
            return
        left, right = torch.broadcast_tensors(left, right)
        if left.data_ptr() == right.data_ptr() and left.stride() == right.stride():
            return
        dims = [d for d in range(left.dim()) if left.stride(d) == 0 and right.stride(d) == 0]
        pairs = np.stack([core(left, dims).numpy().reshape(-1), core(right, dims).numpy().reshape(-1)])
        pairs = pairs[:, pairs[0] != pairs[1]]
        if not pairs.shape[1]:
            return
        if pairs.shape[1] > 256:
            pairs = np.unique(pairs, axis=1)
        key = pairs.tobytes()
        if key not in self._seen:
            self._seen.add(key)
            self._edges.append(pairs)
            self.edge_sites.append(site)

    def pin(self, ids: Tensor, reason: str) -> None:
        """Record that these ids can never be removed."""
        self.pinned.append(Frozen(np.unique(core(ids).numpy()), reason))

    def edges(self) -> list[np.ndarray]:
        """Recorded pairs, each (2, n), in the order of `edge_sites`."""
        return self._edges

    def forget(self, count: int) -> None:
        """Take back all recorded pairs but the first `count` arrays of them."""
        for pairs in self._edges[count:]:
            self._seen.discard(pairs.tobytes())
        del self._edges[count:], self.edge_sites[count:]

    def classes(self) -> np.ndarray:
        """The class of every id, (count,): ids in one class go together."""
        if not self._edges:
            return np.arange(self.count)
        pairs = np.concatenate(self._edges, axis=1)
        graph = coo_matrix(
            (np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(self.count, self.count)
        )
        return connected_components(graph, directed=False)[1]


def core(plane: Tensor, dims: Iterable[int] | None = None) -> Tensor:
    """The plane with the dimensions along which it does not change narrowed to size 1."""
    for d in range(plane.dim()) if dims is None else dims:
        if plane.stride(d) == 0 and plane.size(d) > 1:
            plane = plane.narrow(d, 0, 1)
    return plane


def varying(plane: Tensor) -> tuple[int, ...]:
    """The dimensions along which a plane changes."""
    return tuple(
        d for d, (size, stride) in enumerate(zip(plane.shape, plane.stride(), strict=True)) if size > 1 and stride
    )


def compact(plane: Tensor) -> Tensor:
    """The same plane, with stride 0 wherever it turns out not to change."""
    if plane.numel() == 0:
        return plane
    small = core(plane)
    for d in varying(small):
        first = small.narrow(d, 0, 1)
        if bool((small == first).all()):
            small = first
    return small.expand(plane.shape)


def freeze(ids: Ids, plane: Tensor, dims: Sequence[int], reason: str) -> Tensor:
    """Tie the ids along some dimensions, which must keep their length; returns the plane, constant along them."""
    changing = [d for d in varying(plane) if d in dims]
    if not changing:
        return plane
    small = core(plane)
    first = small
    for d in changing:
        first = first.narrow(d, 0, 1)
    ids.unite(small, first.expand(small.shape), reason)
    ids.frozen.append(Frozen(first.numpy().reshape(-1), reason))
    return first.expand(plane.shape)


def drop(ids: Ids, plane: Tensor, dims: Sequence[int], reason: str) -> Tensor | None:
    """What is left of a plane after its dimensions `dims` are summed away (kept at size 1); None if nothing is.

    A plane that changes along other dimensions too keeps its ids along those, tied along the ones that go.
    """
    changing = varying(plane)
    if changing and all(d in dims for d in changing):
        return None
    plane = freeze(ids, plane, dims, reason)
    for d in dims:
        plane = plane.narrow(d, 0, 1)
    return plane


def vector(ids: Ids, plane: Tensor, dim: int, reason: str) -> Tensor:
    """The ids along one dimension, (size,), tied along all others."""
    plane = freeze(ids, plane, [d for d in range(plane.dim()) if d != dim], reason)
    for d in range(plane.dim()):
        if d != dim:
            plane = plane.narrow(d, 0, 1)
    return plane.reshape(-1)


def along(dim: int, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A plane of a shape that changes along one dimension only."""
    view = [1] * len(shape)
    view[dim] = len(values)
    return values.view(view).expand(tuple(shape))
