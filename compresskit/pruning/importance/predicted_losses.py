"""What narrower groups do to the model's output, as statistics of the whole model foretell it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch

from ...analysis.calibration.block_walk.blocks import find_blocks
from ...analysis.calibration.block_walk.streaming import walk
from ...analysis.sensitivity.channels import drawn_class, output_sensitivities, unlabelled
from ...core.reporting.phases import phase
from ...core.tensors.batches import count_examples
from ...core.tensors.modules import get_module
from ...core.types import Loaded
from ...training.context import Context
from ..allocation.solved_widths import losses_of_widths
from ..allocation.units import by_score
from ..dependency.graph import Graph
from ..options import PruneOptions
from .calibration_statistics import block_moments, calibration, measurable

_SAMPLES, _SENSITIVITY_SAMPLES = 1024, 256  # calibration examples at most


@phase("choose")
@torch.no_grad()
def predicted_losses(
    loaded: Loaded, graph: Graph, scores: Mapping[str, np.ndarray], options: PruneOptions, context: Context
) -> dict[str, np.ndarray]:
    """By group the predicted divergence of the output for every width, (units + 1,), units going in order of scores.

    Divergences of the layers that read a group are added up; groups that no measurable layer reads are left out.
    """
    inputs = calibration(context, min(options.samples, _SAMPLES), "scope 'solve'")
    readers: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
    for group in graph.groups:
        order = by_score(scores[group.name])
        for member in group.members:
            name = member.name.rpartition(".")[0]
            reads = member.consumes and member.dim == 1 and member.name.endswith("weight")
            if reads and measurable(get_module(loaded.module, name)):
                readers[name].append((group.name, member.positions[order]))
    some = inputs[: -(-_SENSITIVITY_SAMPLES // count_examples(inputs[0]))]
    sensitivities = output_sensitivities(
        loaded.module, list(readers), unlabelled(some), score=drawn_class(context.seed)
    )
    found: dict[str, np.ndarray] = {}
    done: set[str] = set()
    for step in walk(loaded.module, find_blocks(loaded.module, loaded.example), inputs):
        own = [name for name in step.block.layers if name in sensitivities and name not in done]
        for name, sums in block_moments(step, own, points=options.positions_per_sample, seed=context.seed).items():
            done.add(name)
            covariance = sums.covariance()[0]
            for group_name, ordered in readers[name]:
                layer = get_module(loaded.module, name)
                losses = losses_of_widths(layer, covariance, sums.count, sensitivities[name], ordered)
                found[group_name] = found.get(group_name, 0.0) + losses
    context.log(f"predicted what narrower layers lose for {len(found)} of {len(graph.groups)} groups")
    return found
