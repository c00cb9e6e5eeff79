"""Ties that keep every activation rectangular, and every group norm's groups equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Trace = Any


def regular_classes(trace: Trace) -> np.ndarray:
    """Classes of ids after tying what must go together for every activation to keep a rectangular shape.

    A group norm loses whole groups or the same channels of each group, whichever leaves more units to it alone. Where
    norms that meet then leave fewer (8 groups of 12 and 12 groups of 8), all of them lose the same channels of each
    group (positions that differ modulo the widths' greatest common divisor go apart), or all of them whole groups,
    if that leaves more.

    Returns:
        (ids,): the class of every id.
    """
    before = trace.ids.classes()
    edges = len(trace.ids.edges())
    norms = [plane.numpy() for plane, _ in trace.group_norms]
    labels = _rectangular(trace)
    poor = [
        number
        for number, norm in enumerate(norms)
        if number not in trace.norm_axes and _units(labels, norm) < min(max(norm.shape), _units(before, norm))
    ]
    if not poor:
        return labels
    meeting = _meeting(labels, norms, poor)
    best: list[tuple[float, int | None]] = [(_units(labels, *(norms[n] for n in members)), None) for members in meeting]
    for axis in (1, 0):
        trace.ids.forget(edges)
        trace.norm_axes |= {n: axis for members in meeting for n in members}
        tried = _rectangular(trace)
        for place, members in enumerate(meeting):
            units = _units(tried, *(norms[n] for n in members))
            best[place] = max(best[place], (units, axis), key=lambda pair: pair[0])
    trace.norm_axes |= {n: axis for (_, axis), members in zip(best, meeting, strict=True) for n in members}
    trace.ids.forget(edges)
    return _rectangular(trace)


def _units(labels: np.ndarray, *norms: np.ndarray) -> float:
    """How many units as large as the largest one the norms' channels make."""
    counts = np.unique(np.concatenate([labels[norm].reshape(-1) for norm in norms]), return_counts=True)[1]
    return counts.sum() / counts.max()


def _meeting(labels: np.ndarray, norms: Sequence[np.ndarray], poor: Sequence[int]) -> list[list[int]]:
    """The poor norms, each with the norms that share a class with it, directly or through others."""
    classes = [set(np.unique(labels[norm]).tolist()) for norm in norms]
    found: list[list[int]] = []
    left = list(range(len(norms)))
    for start in poor:
        if start not in left:
            continue
        members, reached = [], set(classes[start])
        while added := [n for n in left if classes[n] & reached]:
            members += added
            left = [n for n in left if n not in added]
            reached.update(*(classes[n] for n in added))
        found.append(sorted(members))
    return found


def _rectangular(trace: Trace) -> np.ndarray:
    labels = trace.ids.classes()
    boxes = [(plane.numpy(), site, None) for plane, site in trace.boxes if plane.numel()]
    boxes += [(plane.numpy(), site, trace.norm_axes.get(n)) for n, (plane, site) in enumerate(trace.group_norms)]
    while boxes:  # every round joins classes, so this ends
        touched = np.zeros(len(labels), dtype=bool)
        left = []
        for box, site, wanted in boxes:
            mapped = labels[box]
            dims = [d for d in range(mapped.ndim) if (mapped != mapped.take([0], d)).any()]
            if len(dims) < 2:
                continue
            left.append((box, site, wanted))
            if touched[mapped].any():  # what an earlier box tied may have made this one rectangular
                continue
            touched[mapped] = True
            axis = max(dims, key=lambda d: (mapped.shape[d], d)) if wanted is None else wanted
            moved = np.moveaxis(box, axis, 0).reshape(box.shape[axis], -1)
            ids = torch.from_numpy(np.ascontiguousarray(moved))
            trace.ids.unite(ids, ids[:, :1], f"{site}: the shape stays rectangular")
        boxes = left
        labels = trace.ids.classes()
    return labels
