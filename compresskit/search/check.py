"""What `search` would refuse only later, found out before any work."""

from __future__ import annotations

from functools import partial

from ..analysis.dataflow import trace
from ..core.errors import InputError, problems_of
from ..core.types import Loaded
from ..decomposition.surgery.find_layers import survey
from ..pruning.options import PruneOptions
from ..pruning.structured.prune import prunable_graph
from ..quantization.plan import make_plan
from ..training.context import Context
from .nas.options import TECHNIQUE as ARCHITECTURE
from .nas.session import check_reward
from .nas.space import ChainSpace
from .options import SearchOptions
from .policies.study import check_storage
from .spaces.quantize import quantize_options


def check(loaded: Loaded, options: SearchOptions, context: Context) -> None:
    """Find what could be searched over.

    Args:
        loaded: a copy of the model, which this may change.
        options: of the step.
        context: the metric that candidates are scored by.
    Raises:
        InputError: if there is nothing, the budget bounds what the technique does not change, or the study's storage
            cannot be one.
    """
    problems = problems_of(
        lambda: _check_space(loaded, options, context),
        *([partial(check_storage, options.storage)] if options.storage else []),
    )
    if problems:
        raise InputError("\n".join(problems))


def _check_space(loaded: Loaded, options: SearchOptions, context: Context) -> None:
    if options.technique == ARCHITECTURE:
        check_reward(context)
        if options.policy != "n2n":
            ChainSpace(loaded)
        return
    if options.technique == "prune":
        prunable_graph(loaded, PruneOptions(ratio=0.5))
    elif options.technique == "decompose":
        sites = [site for site in survey(loaded)[0] if site.geometry.form != "embedding"]
        if not sites:
            raise InputError(f"model {loaded.name!r}: no layer can be decomposed, so there is nothing to search")
    elif options.technique == "quantize":
        traced = trace(loaded.module, loaded.example)
        make_plan(loaded.module, traced, quantize_options(options, {"*": max(options.bits)}))
