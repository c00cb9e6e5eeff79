"""What `prune` would refuse only later, found out before any work."""

from __future__ import annotations

from ..core.errors import InputError, problems_of
from ..core.types import Loaded
from ..training.context import Context
from ..training.train_check import check_training
from .allocation.allocation import check_budget
from .dependency.graph import build_graph
from .importance.principal_axes import check_axes
from .options import PruneOptions
from .structured.block_pruning import removable_blocks
from .structured.diagnostics import explain
from .structured.experts.expert_pruning import find_mixtures, kept_experts
from .structured.free_heads import free_heads
from .structured.one_width import ties_of
from .structured.prune import all_limits, prunable_graph
from .structured.vocabulary import find_vocabulary
from .unstructured import prunable_layers


def check(loaded: Loaded, options: PruneOptions, context: Context) -> None:
    """Find what could be pruned, and match every pattern and name of the options.

    Args:
        loaded: a copy of the model, which this may change.
        options: of the step.
        context: data, where a training before the cut needs them.
    Raises:
        InputError: a line for each thing that `prune` would refuse.
    """
    checks = [lambda: _check_parts(loaded, options)]
    if options.sparsify != "none":
        checks.append(lambda: check_training(loaded, options.recover, context))
    problems = problems_of(*checks)
    if problems:
        raise InputError("\n".join(problems))


def _check_parts(loaded: Loaded, options: PruneOptions) -> None:
    if options.granularity == "block":
        removable_blocks(loaded, options.protect)
        return
    if options.granularity == "expert":
        kept_experts(find_mixtures(loaded), options)
        return
    if options.granularity == "vocabulary":
        find_vocabulary(loaded)
        return
    if options.granularity in ("weight", "n:m"):
        if not prunable_layers(loaded.module, options.protect):
            raise InputError(f"model {loaded.name!r}: no linear layer or convolution is left to prune")
        return
    check_channels(loaded, options)


def check_channels(loaded: Loaded, options: PruneOptions) -> None:
    """Whether channels can go, enough of them, and whether the options' patterns and names match some.

    Raises:
        InputError: if not.
    """
    if not options.looks_only():
        free_heads(loaded.module)
    if options.explain is not None:
        explain(build_graph(loaded.module, loaded.example, options.attention), options.explain)
        return
    graph = prunable_graph(loaded, options)
    ties = ties_of(loaded, graph, options)
    limits = all_limits(loaded, graph, options, ties)
    check_budget(graph, limits, options, ties.classes)
    check_axes(loaded, graph, limits, options)
