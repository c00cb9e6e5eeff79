"""Recipe steps carried out on a model: what a search does with its winner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.types import Loaded
from ..decomposition.decompose import decompose
from ..decomposition.options import DecomposeOptions
from ..pruning.options import PruneOptions
from ..pruning.structured.prune import prune
from ..quantization.options import QuantizeOptions
from ..quantization.quantize import quantize
from ..training.context import Context, StepResult

#: technique -> (options model, entry point)
_TECHNIQUES: dict[str, tuple[Any, Callable[..., StepResult]]] = {
    "prune": (PruneOptions, prune),
    "decompose": (DecomposeOptions, decompose),
    "quantize": (QuantizeOptions, quantize),
}


def carry_out(steps: Sequence[dict[str, Any]], loaded: Loaded, context: Context) -> StepResult:
    """Do recipe steps on a model, one after the other; facts are keyed by technique where there are several."""
    whole = StepResult(loaded)
    for step in steps:
        ((technique, values),) = step.items()
        model, run = _TECHNIQUES[technique]
        result = run(whole.loaded, model.model_validate(values), context)
        whole.loaded = result.loaded
        whole.facts |= result.facts if len(steps) == 1 else {technique: result.facts}
        whole.notes += result.notes
        whole.tables |= result.tables
        whole.files |= result.files
    return whole
