"""Proving a cut before it is made, and leaving out the groups for which the proof fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ...core.tensors.dtypes import copy_in, model_dtype
from ...core.types import Loaded
from ...training.context import Context
from ..dependency.graph import Graph
from .equivalence import TOLERANCE, difference
from .output_dependence import weak_layers_note
from .surgery import NotExpressible

Keep = dict[str, np.ndarray]

#: the proof says little of a layer that moves the output by less than this, relative to its largest value
WEAK = 1e-6

_UNREPEATABLE = (
    "the output is random: two runs of the uncut model differ by {:.1e} under the same seed; draw nothing in eval mode "
    "(`if self.training:`), or draw from torch's global generator"
)


@dataclass
class Proof:
    """What a check found.

    Attributes:
        keep: units that stay of every group that passed.
        difference: largest relative difference between the cut and the masked model.
        dtype: the precision it was measured in.
        failed: group name -> why it was left out.
        notes: lines for the report.
    """

    keep: Keep
    difference: float
    dtype: str
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def proven(loaded: Loaded, graph: Graph, keep: Keep, context: Context) -> Proof:
    """Check a cut on the example input, in float64 where the model runs in it; groups that fail are left out.

    Args:
        loaded: the uncut model (stays untouched).
        graph: its graph.
        keep: units that stay, by group.
    """
    whole, dtype, uncut_gap = _precise(loaded.module, loaded, graph)
    check = _checker(whole, loaded, graph, TOLERANCE[dtype])
    keep = dict(keep)
    failed: dict[str, str] = {}
    gap, reason = check(keep)
    while keep and not gap <= TOLERANCE[dtype]:
        for name in _culprits(keep, check, TOLERANCE[dtype]):
            alone, why = check({name: keep[name]})
            if TOLERANCE[dtype] < uncut_gap < float("inf"):
                why = _UNREPEATABLE.format(uncut_gap)
            elif alone <= TOLERANCE[dtype]:
                why = reason  # it fails in combination only
            worst = gap if alone <= TOLERANCE[dtype] else alone
            failed[name] = why or f"the cut model differs from the masked one by {worst:.1e}"
            keep.pop(name)
        gap, reason = check(keep)
    notes = [f"left out {name}: {why}" for name, why in failed.items()]
    for note in notes:
        context.log(note)
    if keep:
        notes += weak_layers_note(whole, loaded.example, graph, keep, max(WEAK, TOLERANCE[dtype]), context.log)
    return Proof(keep, gap if keep else 0.0, str(dtype).removeprefix("torch."), failed, notes)


def _precise(module: nn.Module, loaded: Loaded, graph: Graph) -> tuple[nn.Module, torch.dtype, float]:
    """The model in the widest type in which cutting nothing shows no difference, else in its own; the type, and that
    difference."""
    own = model_dtype(module) or torch.float32
    gap = float("inf")
    for dtype in (torch.float64, torch.float32):
        try:
            wide = copy_in(module, dtype)
            gap = difference(wide, loaded.example, graph, graph.keep_ids({}))[0]
            if gap <= TOLERANCE[dtype]:
                return wide, dtype, gap
        except (RuntimeError, TypeError, ValueError):
            pass  # a model that casts by itself cannot run in a wider type
        if dtype == own:
            break
    return module, own, gap


def _checker(whole: nn.Module, loaded: Loaded, graph: Graph, tolerance: float) -> Callable[[Keep], tuple[float, str]]:
    def check(keep: Keep) -> tuple[float, str]:
        if not keep:
            return 0.0, ""
        try:
            return difference(whole, loaded.example, graph, graph.keep_ids(keep))
        except NotExpressible as error:
            return float("inf"), f"a number is hard-coded ({error})"

    return check


def _culprits(keep: Keep, check: Callable[[Keep], tuple[float, str]], tolerance: float) -> list[str]:
    """Groups whose own cut fails, found by halving; where only a combination fails, one group of it."""
    names = list(keep)
    if len(names) == 1:
        return names
    halves = [names[: len(names) // 2], names[len(names) // 2 :]]
    found = []
    for half in halves:
        part = {name: keep[name] for name in half}
        if not check(part)[0] <= tolerance:
            found += _culprits(part, check, tolerance)
    return found or [names[-1]]
