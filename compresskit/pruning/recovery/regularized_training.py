"""Training before the cut that pushes units towards zero, so that removing them costs less.

One function a regularizer; `tables.REGULARIZERS` lists them. Each takes the weights of a group's units, which units
would go, and how far the training is, and returns a penalty that is added to the task loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.types import Inputs, Loaded
from ...evaluation.losses import Loss, run_with_loss
from ...training.context import Context
from ...training.loop import train
from ..dependency.graph import Graph, Group
from ..importance.importance import per_unit
from ..options import PruneOptions
from ..tables import REGULARIZERS

#: strength of the group lasso and of the L1 penalty on scales, in the middle of what the papers use
_LASSO = 1e-4
#: largest coefficient of the growing penalty
_GROWN = 1.0


@dataclass(frozen=True)
class Units:
    """One group's weights as training sees them.

    Attributes:
        squares: squared norm of each unit over all layers that hold it, (units,).
        elements: weights that one unit has.
        scales: |scale| of each unit in the norms behind it, (norms, units); no rows where there is none.
        goes: which units the cut would remove now, (units,) bool.
    """

    squares: Tensor
    elements: int
    scales: Tensor
    goes: Tensor


def group_lasso(units: Units, progress: float) -> Tensor:
    """Sum of the units' norms, each weighted by the square root of its size: whole units go to zero together.

    Source: Wen et al., "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016, eq. 2; units over coupled
    layers as in Fang et al., "DepGraph", CVPR 2023.
    """
    return _LASSO * units.elements**0.5 * (units.squares + 1e-12).sqrt().sum()


def slimming(units: Units, progress: float) -> Tensor:
    """L1 norm of the scales of the norm layers behind the units.

    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, eq. 1.
    """
    return _LASSO * units.scales.sum()


def growing(units: Units, progress: float) -> Tensor:
    """Half the squared norm of the units that would go, with a coefficient that grows from 0 to 1 over the training.

    Source: Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021, section 3 (GReg-1).
    """
    return 0.5 * _GROWN * progress * units.squares[units.goes].sum()


def sparsify(
    loaded: Loaded, graph: Graph, keep: Mapping[str, np.ndarray], options: PruneOptions, context: Context
) -> dict[str, Any]:
    """Train a model in place with a penalty on its groups' units.

    Args:
        keep: units of each group that would stay if it was cut now; groups not named stay whole and get no penalty.
    Returns:
        the training's facts.
    Raises:
        InputError: without data.
    """
    objective = SparseObjective(
        graph, keep, REGULARIZERS.load(options.sparsify), options.sparsify_strength, options.recover.label_smoothing,
        context.loss,
    )  # fmt: skip
    last = options.recover.model_copy(update={"epochs": options.sparsify_epochs, "keep": "last", "early_stop": None})
    for parameter in loaded.module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return train(loaded, last, context, objective=objective)


class SparseObjective:
    """The task loss plus a penalty on the units of every group that would lose some."""

    def __init__(
        self, graph: Graph, keep: Mapping[str, np.ndarray], penalty: Callable[[Units, float], Tensor], strength: float,
        label_smoothing: float = 0.0, loss: Loss | None = None,
    ):  # fmt: skip
        self._groups = [(group, torch.from_numpy(~keep[group.name])) for group in graph.groups if group.name in keep]
        self._penalty = penalty
        self._strength = strength
        self._label_smoothing, self._loss = label_smoothing, loss
        self._progress = 0.0
        self.parts: dict[str, float] = {}

    def begin_step(self, indices: Tensor, step: int, total_steps: int) -> None:
        """Note how far the training is."""
        self._progress = (step + 1) / total_steps

    def __call__(self, module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
        _, task = run_with_loss(module, inputs, targets, self._loss, self._label_smoothing)
        tensors = dict(module.named_parameters(remove_duplicate=False))
        penalties = [self._penalty(units_of(group, goes, tensors), self._progress) for group, goes in self._groups]
        penalty = self._strength * torch.stack(penalties).sum() if penalties else torch.zeros_like(task)
        self.parts = {"task": task.item(), "penalty": penalty.item()}
        return task + penalty


def units_of(group: Group, goes: Tensor, tensors: Mapping[str, Tensor]) -> Units:
    """A group's weights from a module's parameters, by name, differentiable."""
    squares, scales, elements = [], [], 0
    for member in group.members:
        tensor = tensors.get(member.name)
        if tensor is None:
            continue
        if tensor.dim() > 1:
            squares.append(per_unit(member, tensor.square()))
            elements += tensor.numel() // tensor.shape[member.dim] * member.positions.shape[1]
        elif member.name.endswith(".weight"):
            scales.append(per_unit(member, tensor.abs()))
    like = next(iter(tensors.values()))
    none = like.new_zeros(0, len(group))
    return Units(
        torch.stack(squares).sum(0) if squares else like.new_zeros(len(group)),
        elements,
        torch.stack(scales) if scales else none,
        goes.to(like.device),
    )
