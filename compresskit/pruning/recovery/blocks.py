"""After a cut: what is left of each block is tuned by gradients to what the whole model's block gives."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.calibration.block_walk.blocks import Block
from ...analysis.reconstruction.fitting import Outcome
from ...analysis.reconstruction.floats import reconstruct_floats
from ...analysis.reconstruction.plan import Plan
from ...core.tensors.modules import get_module
from ...core.types import Loaded
from ..dependency.graph import Graph


def reconstruct_cut(whole: nn.Module, cut: Loaded, graph: Graph, keep: np.ndarray, plan: Plan) -> dict[str, Outcome]:
    """Tune the weights, biases and norms of a cut model's blocks to the whole model's outputs, in place.

    Args:
        whole: the model before the cut.
        cut: the same after it, refitted or not.
        graph: of the whole model.
        keep: which ids stay.
        plan: blocks, examples and steps.
    Returns:
        block name -> errors of its output.
    """

    def target(block: Block, output: Tensor) -> Tensor:
        found = kept_outputs(whole, block, graph, keep)
        return output if found is None else output.index_select(found[0], found[1].to(output.device))

    return reconstruct_floats(whole, cut, plan, target)


def kept_outputs(whole: nn.Module, block: Block, graph: Graph, keep: np.ndarray) -> tuple[int, Tensor] | None:
    """(dimension, indices) of the channels of a block's output that stay; None where all do, as far as can be told.

    They are those of the block's last layer whose outputs are as many as the block's.
    """
    if not block.leaves:
        return None
    shape = block.leaves[0]
    stored = {full: one for one in graph.trace.stored.values() for full in one.names}
    for name in reversed(block.layers):
        weight = stored.get(f"{name}.weight")
        dim = len(shape) - 1 - len(getattr(get_module(whole, name), "kernel_size", ()))
        if weight is None or not 0 < dim < len(shape) or shape[dim] != len(weight.ids[0]):
            continue
        mask = keep[weight.ids[0].numpy()]
        return None if mask.all() else (dim, torch.from_numpy(np.flatnonzero(mask)))
    return None
