"""Reconstruction of models whose weights are floats: cut, factored, or with zeros that stay."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...core.tensors.dtypes import FLOATS
from ...core.types import Loaded
from ..calibration.block_walk.blocks import Block, modules_of
from .blockwise import Target, reconstruct_blocks
from .fitting import Group, Outcome
from .plan import Plan

#: share of its size by which a float parameter moves at first in one step
_FLOAT_LR = 0.02


def reconstruct_floats(
    whole: nn.Module, changed: Loaded, plan: Plan, target: Target | None = None
) -> dict[str, Outcome]:
    """Tune all float parameters of a changed model's blocks, in place; zeros of those stored as bitmaps stay.

    Args:
        whole: the model before the change.
        changed: the model after it.
        plan: blocks, examples and steps.
        target: what outputs are compared with, where the changed model's are narrower.
    Returns:
        block name -> errors of its output.
    """
    keeps_zeros = [name for name, codec in changed.storage.items() if codec == "bitmap"]
    return reconstruct_blocks(
        whole, changed.module, plan.blocks, plan.batches, lambda one: float_groups(changed.module, one, keeps_zeros),
        plan.settings, target or (lambda _block, output: output), plan.joint_batches,
    )  # fmt: skip


def float_groups(root: nn.Module, block: Block, keeps_zeros: Sequence[str] = ()) -> list[Group]:
    """All float parameters in a block, tuned in proportion to the size of what is not zero in them.

    Args:
        root: the changed model.
        block: the block.
        keeps_zeros: names of parameters whose zeros stay.
    """
    groups = []
    for path, module in modules_of(root, block):
        own = {name: one for name, one in module._parameters.items() if one is not None and one.dtype in FLOATS}
        sizes = {name: _size(one.detach()) for name, one in own.items()}
        for name, tensor in own.items():
            # a bias may be zero as yet
            lr = _FLOAT_LR * max(sizes[name], 0.1 * max(sizes.values()))
            groups.append(Group([tensor], lr, keeps_zeros=f"{path}.{name}".lstrip(".") in keeps_zeros))
    return groups


def _size(tensor: Tensor) -> float:
    """Root mean square of what is not zero."""
    count = int(tensor.count_nonzero())
    return (float(tensor.double().square().sum()) / count) ** 0.5 if count else 0.0
