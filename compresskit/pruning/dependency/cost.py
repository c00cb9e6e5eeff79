"""Multiply-accumulates and parameters as exact functions of how many units of each group stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from torch import nn

from ...core.costs import cost_of
from .graph import Graph
from .records import Stored
from .symbolic_int import Axis


class Products:
    """A sum of products of widths, each width linear in how many units stay.

    Args:
        graph: groups, in the order of the counts.
        terms: (constant, axes) pairs: the sum runs over constant times the kept size of each axis.
    """

    def __init__(self, graph: Graph, terms: Sequence[tuple[int, Sequence[Axis]]]):
        owner = np.full(int(graph.labels.max()) + 1, -1)
        for number, group in enumerate(graph.groups):
            owner[group.units] = number
        sizes = np.array([len(group) for group in graph.groups], dtype=np.float64)
        rows: list[np.ndarray] = []
        seen: dict[bytes, int] = {}
        merged: dict[tuple[int, ...], float] = {}
        for constant, axes in terms:
            places = []
            for axis in axes:
                row = _linear(axis, graph.labels, owner, sizes)
                place = seen.setdefault(row.tobytes(), len(rows))
                if place == len(rows):
                    rows.append(row)
                places.append(place)
            key = tuple(sorted(places))
            merged[key] = merged.get(key, 0) + constant
        self._widths = np.stack(rows) if rows else np.zeros((0, len(graph.groups) + 1))
        longest = max(map(len, merged), default=0)
        self._terms = np.full((len(merged), longest), len(rows), dtype=np.int64)
        for number, key in enumerate(merged):
            self._terms[number, : len(key)] = key
        self._constants = np.array(list(merged.values()), dtype=np.float64)

    def __call__(self, kept: np.ndarray) -> float:
        """The sum when kept[g] units of group g stay."""
        widths = np.append(self._widths[:, :-1] @ kept + self._widths[:, -1], 1.0)
        return float((self._constants * widths[self._terms].prod(axis=1)).sum())


def _linear(axis: Axis, labels: np.ndarray, owner: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Width of an axis as coefficients of the groups' counts, and a constant at the end."""
    row = np.zeros(len(sizes) + 1)
    for plane in axis.planes:
        mapped = labels[plane]
        if not (mapped == mapped[:1]).all():
            continue  # a position that stays while any of several units stays
        found = owner[mapped[0]]
        if (found >= 0).any():
            np.add.at(row, found[found >= 0], 1 / sizes[found[found >= 0]])
            row[-1] = (found < 0).sum()
            return row
    row[-1] = axis.size
    return row


def widths(graph: Graph, names: Sequence[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """The size of each dimension of some tensors as coefficients of the groups' counts, with a constant at the end.

    Tensors that the run never touched are absent.
    """
    owner = np.full(int(graph.labels.max()) + 1, -1)
    for number, group in enumerate(graph.groups):
        owner[group.units] = number
    sizes = np.array([len(group) for group in graph.groups], dtype=np.float64)
    rows = {}
    for stored in graph.trace.stored.values():
        axes = [Axis((ids.numpy()[None],), len(ids)) for ids in stored.ids]
        for name in set(stored.names).intersection(names):
            rows[name] = tuple(_linear(axis, graph.labels, owner, sizes) for axis in axes)
    return rows


def macs(graph: Graph) -> Products:
    """Multiply-accumulates of one run on the example input, as torch.utils.flop_counter counts them."""
    return Products(graph, [(cost.constant, cost.axes) for cost in graph.trace.costs])


def parameters(graph: Graph) -> Products:
    """Number of parameters; tensors the run never touched count as they are."""
    return Products(graph, _stored_terms(graph, lambda stored: isinstance(stored.tensor, nn.Parameter)))


def stored_bytes(graph: Graph) -> Products:
    """Bytes of all parameters and saved buffers; the weights file adds a header of a few kilobytes."""
    return Products(graph, _stored_terms(graph, lambda stored: stored.persistent, lambda s: s.tensor.element_size()))


def touched_bytes(graph: Graph) -> Products:
    """Bytes of all parameters and buffers that the run touched, saved by the model itself or not."""
    return Products(graph, _stored_terms(graph, lambda stored: True, lambda s: s.tensor.element_size()))


def _stored_terms(
    graph: Graph, chosen: Callable[[Stored], bool], scale: Callable[[Stored], int] = lambda stored: 1
) -> list[tuple[int, Sequence[Axis]]]:
    terms: list[tuple[int, Sequence[Axis]]] = []
    for stored in graph.trace.stored.values():
        if chosen(stored):
            axes = [Axis((ids.numpy()[None],), len(ids)) for ids in stored.ids]
            terms.append((scale(stored) * (1 if axes else stored.tensor.numel()), axes))
    return terms


def read_bytes(graph: Graph) -> Products:
    """Bytes of all tensors that the run read as a whole; embedding tables are looked up."""
    read = _stored_terms(graph, lambda stored: stored.used and not stored.looked_up, lambda s: s.tensor.element_size())
    return Products(graph, read)


def activation_bytes(graph: Graph) -> Products:
    """Bytes of what the run's contractions made."""
    return Products(graph, [(made.constant, made.axes) for made in graph.trace.outputs])


class GraphWork:
    """The work of one run as functions of how many units of each group stay.

    Args:
        graph: the groups.
        tensors: of which tensors the bytes count: those that are saved, or those that the run touched.
    """

    def __init__(self, graph: Graph, tensors: Callable[[Graph], Products] = stored_bytes):
        self._graph, self._tensors = graph, tensors
        floats = (s.tensor for s in graph.trace.stored.values() if s.tensor.is_floating_point())
        self.bits = next((8 * tensor.element_size() for tensor in floats), 32)

    multiplications = cached_property(lambda self: macs(self._graph))
    params = cached_property(lambda self: parameters(self._graph))
    stored_bytes = cached_property(lambda self: self._tensors(self._graph))
    read_bytes = cached_property(lambda self: read_bytes(self._graph))
    activation_bytes = cached_property(lambda self: activation_bytes(self._graph))

    def at(self, kept: np.ndarray, multiplications: float | None = None) -> KeptWork:
        """The work when kept[g] units of group g stay; multiply-accumulates may be given where they are known."""
        return KeptWork(self, kept, multiplications)

    def cost(self, name: str) -> Callable[[np.ndarray], float]:
        """A cost as a function of the kept counts."""
        formula = cost_of(name).formula()
        return lambda kept: formula(self.at(kept))


class KeptWork:
    """A `Work` each of whose counts is computed when a cost asks for it: budgets ask for one of them many times."""

    def __init__(self, whole: GraphWork, kept: np.ndarray, multiplications: float | None):
        self._whole, self._kept, self._multiplications = whole, kept, multiplications

    @property
    def macs(self) -> dict[int, float]:
        """Bits of the operands -> multiply-accumulates."""
        known = self._multiplications
        return {self._whole.bits: self._whole.multiplications(self._kept) if known is None else known}

    @property
    def params(self) -> float:
        """Weights that the model computes with."""
        return self._whole.params(self._kept)

    @property
    def stored_bytes(self) -> float:
        """Bytes of its tensors as they are stored."""
        return self._whole.stored_bytes(self._kept)

    @property
    def read_bytes(self) -> float:
        """Bytes of the tensors that a forward reads as a whole."""
        return self._whole.read_bytes(self._kept)

    @property
    def activation_bytes(self) -> float:
        """Bytes of the outputs of operations that multiply and sum."""
        return self._whole.activation_bytes(self._kept)


def exact_macs(graph: Graph, keep: np.ndarray) -> int:
    """Multiply-accumulates for given kept ids, (ids,) bool, with no linearity assumed."""
    total = 0
    for cost in graph.trace.costs:
        product = cost.constant
        for axis in cost.axes:
            product *= axis.kept(keep)
        total += product
    return total
