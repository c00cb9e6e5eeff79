"""Which of several cuts comes back best: each is made and refitted on a copy, and judged on inputs left out of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.answers import answer_of
from ...analysis.reconstruction.fitting import variance
from ...core.reporting.phases import phase
from ...core.tensors.batches import count_examples
from ...core.types import Inputs, Loaded
from ...training.context import Context
from ..dependency.graph import Graph
from ..importance.calibration_statistics import Evidence, calibration
from ..importance.principal_axes import Axes
from ..options import PruneOptions
from ..structured.surgery import cut
from .recovery import recalibrate, refit_after_cut, refit_before_cut

#: calibration examples at most, and the share of their batches that is held out
_EXAMPLES, _HELD_OUT_SHARE = 1024, 0.25


@dataclass(frozen=True)
class Refit:
    """How cuts of one model are refitted.

    Attributes:
        kind: as `refit_kind` finds it.
        graph: of the whole model.
        evidence: moments of what layers read.
        context: data, seed.
        axes: what became of a stream, whose normalizations are scaled when it gets narrower.
    """

    kind: Literal["none", "inputs", "sequential"]
    graph: Graph
    evidence: Evidence
    context: Context
    axes: Axes

    def cut(
        self, loaded: Loaded, whole: nn.Module | None, keep: Mapping[str, np.ndarray], options: PruneOptions
    ) -> tuple[int, int]:
        """Cut a model in place and refit it; returns how many layers were refitted, and BatchNorms estimated again.

        Args:
            loaded: the whole model, or a copy of it.
            whole: another copy of it, for refits layer by layer.
            keep: which units of each group stay.
            options: how.
        """
        refitted, ids = 0, self.graph.keep_ids(dict(keep))
        if self.kind == "inputs":
            refitted = refit_before_cut(loaded.module, self.graph, ids, self.evidence, options.ridge)
        self.axes.restore_scale(loaded.module, keep)
        loaded.edits += cut(loaded.module, self.graph, ids)
        if self.kind == "sequential" and whole is not None:
            return refit_after_cut(whole, loaded, self.graph, ids, options, self.context), 0
        return refitted, recalibrate(loaded, options, self.context)


@phase("choose")
@torch.no_grad()
def refitted_errors(
    loaded: Loaded, keeps: Mapping[str, dict[str, np.ndarray]], refit: Refit, options: PruneOptions
) -> dict[str, float]:
    """By cut the squared error of the refitted model's answers, relative to their variance; no labels are read.

    Args:
        loaded: the whole model, left as it is.
        keeps: by name of a cut, units of each group that stay.
        refit: how they are refitted.
        options: of the whole step; trials take at most 1,024 of its calibration examples, a quarter of them held out.
    Returns:
        errors; cuts whose answers cannot be compared with the whole model's are left out.
    """
    batches = calibration(refit.context, min(options.samples, _EXAMPLES), "scope 'auto'")
    count = round(len(batches) * _HELD_OUT_SHARE) if len(batches) > 1 else 0
    seen, unseen = batches[: len(batches) - count], batches[len(batches) - count :]
    own = options.model_copy(update={"samples": sum(map(count_examples, seen))})
    found = {}
    for name, keep in keeps.items():
        copy = loaded.clone()
        refit.cut(copy, loaded.module, keep, own)
        error = relative_error(loaded.module, copy.module, unseen or seen)
        if error is not None:
            found[name] = error
    return found


def relative_error(whole: nn.Module, changed: nn.Module, batches: Sequence[Inputs]) -> float | None:
    """Squared error of a changed model's answers, relative to their variance; None where they cannot be compared."""
    answer = answer_of(whole, changed, batches)
    if answer is None:
        return None
    squares = count = 0.0

    def wanted() -> Iterator[Tensor]:  # answers of language models are too large to be held
        nonlocal squares, count
        for batch in batches:
            one = answer(whole, batch)
            squares += float((answer(changed, batch) - one).double().square().sum())
            count += one.numel()
            yield one

    spread = variance(wanted())
    return squares / max(count, 1) / spread
