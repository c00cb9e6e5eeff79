"""Numbers that must hold after a cut: attributes take new values so that every shape fits what stays."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from .records import Count
from .symbolic_int import AttributeKey, Axis, Expr, evaluate, leaves
from .tracer import Trace


class Solver:
    """Finds attribute values for what stays.

    Args:
        trace: the run whose numbers must hold.
        labels: the class of every id.
    """

    def __init__(self, trace: Trace, labels: np.ndarray):
        self.trace = trace
        self.labels = labels
        self.original = trace.values
        self.counts = _distinct(trace.counts)
        self._attributes = [leaves(count.expr, "attr") for count in self.counts]
        self._by_label: dict[int, set[int]] = defaultdict(set)
        self._by_attribute: dict[AttributeKey, list[int]] = defaultdict(list)
        for number, count in enumerate(self.counts):
            for axis in (count.axis, *leaves(count.expr, "size")):
                for plane in axis.planes:
                    for label in np.unique(labels[plane]).tolist():
                        self._by_label[label].add(number)
            for key in self._attributes[number]:
                self._by_attribute[key].append(number)

    @staticmethod
    def size_axes(count: Count) -> list[Axis]:
        """Axes whose sizes a number is computed from."""
        return leaves(count.expr, "size")

    def partners(self, count: Count) -> list[Axis]:
        """Axes of the same length that take their number from the same attribute."""
        numbers = sorted({n for key in leaves(count.expr, "attr") for n in self._by_attribute[key]})
        axes = [self.counts[n].axis for n in numbers]
        return [axis for axis in axes if axis.size == count.axis.size and axis is not count.axis]

    def violated(self, keep: np.ndarray, units: np.ndarray) -> list[Count]:
        """Numbers that cannot hold when only some units are gone; keep[id] says whether an id stays."""
        touched = {number for unit in units.tolist() for number in self._by_label.get(unit, ())}
        return self.solve(keep, sorted(self._related(touched)))[1]

    def _related(self, numbers: set[int]) -> set[int]:
        """Numbers that share an attribute with these, directly or through others."""
        found, queue = set(numbers), list(numbers)
        while queue:
            for key in self._attributes[queue.pop()]:
                for number in self._by_attribute[key]:
                    if number not in found:
                        found.add(number)
                        queue.append(number)
        return found

    def solve(self, keep: np.ndarray, numbers: Any = None) -> tuple[dict[AttributeKey, int], list[Count]]:
        """New attribute values for what stays.

        Args:
            keep: which ids stay, (ids,) bool.
            numbers: indices into self.counts; all of them by default.
        Returns:
            attribute values (only of attributes that the numbers read), and the numbers that cannot hold.
        """
        values: dict[AttributeKey, int] = {}
        violated: list[Count] = []
        waiting = list(range(len(self.counts)) if numbers is None else numbers)
        kept = {number: self.counts[number].axis.kept(keep) for number in waiting}
        while waiting:
            waiting.sort(key=lambda n: (self._open(n, values), len(self.counts[n].expr) if self.counts[n].expr else 0))
            number = waiting.pop(0)
            count = self.counts[number]
            unknown = [key for key in self._attributes[number] if key not in values]
            for key in unknown[:-1]:
                values[key] = self.original[key]
            if unknown:
                found = self._fit(count.expr, unknown[-1], kept[number], values, keep)
                if found is None:
                    violated.append(count)
                    continue
                values[unknown[-1]] = found
            elif _value(count.expr, values, keep) != kept[number]:
                violated.append(count)
        return values, violated

    def _open(self, number: int, values: dict) -> int:
        return sum(key not in values for key in self._attributes[number])

    def _fit(self, expr: Expr, key: AttributeKey, target: int, values: dict, keep: np.ndarray) -> int | None:
        """The value of one attribute for which an expression gives the target; the present one if it does."""
        original = self.original[key]
        candidates = [target] if expr == ("attr", key) else [original, *range(original - 1, -1, -1)]
        for candidate in candidates:
            if _value(expr, {**values, key: candidate}, keep) == target:
                return candidate
        return None


def _value(expr: Expr, values: dict, keep: np.ndarray) -> int | None:
    try:
        return evaluate(expr, values, keep)
    except ZeroDivisionError:
        return None


def _distinct(counts: list[Count]) -> list[Count]:
    """Counts without repeats (a layer called for every token asks the same thing each time)."""
    seen: dict[tuple, Count] = {}
    for count in counts:
        key = (tuple(plane.tobytes() for plane in count.axis.planes), _fingerprint(count.expr))
        seen.setdefault(key, count)
    return list(seen.values())


def _fingerprint(expr: Expr) -> Any:
    if expr[0] == "size":
        return ("size", tuple(plane.tobytes() for plane in expr[1].planes))
    if expr[0] in ("const", "attr"):
        return expr
    return (expr[0], _fingerprint(expr[1]), _fingerprint(expr[2]))
