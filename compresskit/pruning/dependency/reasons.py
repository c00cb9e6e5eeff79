"""Why a layer's channels stay: the operations that lead from the layer to what keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order

from .channel_ids import PINNED
from .graph import Graph
from .records import Stored

#: operations named of a chain; the middle of a longer one is left out
LONGEST = 5


class Ties:
    """The recorded ties of a run as a graph over ids, to find shortest ways in.

    Args:
        graph: a model's groups and the run they came from.
    """

    def __init__(self, graph: Graph):
        ids = graph.trace.ids
        self.graph, self.count = graph, ids.count
        edges = ids.edges()
        pairs = np.concatenate(edges, axis=1) if edges else np.zeros((2, 0), dtype=np.int64)
        number = np.repeat(np.arange(len(edges)), [e.shape[1] for e in edges])
        low, high = pairs.min(axis=0), pairs.max(axis=0)
        self._keys, first = np.unique(low * self.count + high, return_index=True)
        self._site = number[first]
        values = np.ones(pairs.shape[1], dtype=np.int8)
        self._matrix = coo_matrix((values, (low, high)), shape=(self.count, self.count)).tocsr()

    def way(self, start: int, goals: np.ndarray) -> list[str] | None:
        """The sites along the shortest way from an id to the nearest of some ids; None where there is none."""
        order, before = breadth_first_order(self._matrix, start, directed=False)
        wanted = np.zeros(self.count, dtype=bool)
        wanted[goals] = True
        reached = order[wanted[order]]
        if not len(reached):
            return None
        here, sites = int(reached[0]), []
        while here != start:
            there = int(before[here])
            sites.append(self._between(here, there))
            here = there
        return list(dict.fromkeys(reversed(sites)))

    def _between(self, left: int, right: int) -> str:
        key = min(left, right) * self.count + max(left, right)
        return self.graph.trace.ids.edge_sites[self._site[np.searchsorted(self._keys, key)]]


def why(graph: Graph, ties: Ties, stored: Stored, dim: int = 0) -> str:
    """Why the positions along a dimension of a tensor stay, with the operations that lead there.

    Args:
        graph: the model's groups.
        ties: the run's ties.
        stored: a parameter or buffer that the run used.
        dim: the dimension, by default that of the outputs.
    Returns:
        "add in block (net.py:12) -> matmul in head (net.py:14) -> REASON", or only the reason where the layer meets it
        itself.
    """
    start = int(stored.ids[dim][0])
    label = int(graph.labels[start])
    reason = graph.pinned.get(label, "")
    way = ties.way(start, _goals(graph, label, reason))
    if way is None and len(stored.ids[dim]) > 1:  # all of the dimension goes together: how its positions meet
        way = ties.way(start, stored.ids[dim][1:].numpy())
    sites = [site for site in way or [] if site != reason]
    if len(sites) > LONGEST:
        sites = [*sites[: LONGEST - 2], "...", *sites[-2:]]
    return " -> ".join([*sites, reason])


def _goals(graph: Graph, label: int, reason: str) -> np.ndarray:
    """Ids that the reason was given for."""
    ids = graph.trace.ids
    rows = [rows for rows, why in (*ids.pinned, *ids.frozen) if why == reason]
    if int(graph.labels[PINNED]) == label:
        rows.append(np.array([PINNED]))
    found: Any = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    return found.astype(np.int64)


def shortened(lines: list[str], most: int = 4) -> str:
    """The first of some lines as one, with how many more there are."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "; ".join([*lines[:most], *more])


def left_out_notes(graph: Graph) -> list[str]:
    """One line a reason for the layers none of whose outputs can go."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in graph.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    if not by_reason:
        return []
    ties = Ties(graph)
    outputs = graph.trace.output_dims()
    makers = {name: key for key, stored in graph.trace.stored.items() if stored.ids for name in stored.names}
    notes = []
    for names in by_reason.values():
        maker = next(makers[t] for t in (f"{names[0]}.weight", f"{names[0]}.in_proj_weight", names[0]) if t in makers)
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        reason = why(graph, ties, graph.trace.stored[maker], outputs[maker])
        notes.append(f"left out {', '.join(names[:4])}{more}: {reason}")
    return notes
