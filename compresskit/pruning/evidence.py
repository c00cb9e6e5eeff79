"""What criteria look at: weights, and (made when first asked for) gradients and activations on calibration data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.modules import get_module
from ..core.types import Context, Loaded
from .graph import Member


class Evidence:
    """Weights, gradients and activations of a model.

    Args:
        loaded: the model that is scored.
        context: data and seed.
        reduction: how scores of the layers that share a unit combine.
    """

    def __init__(self, loaded: Loaded, context: Context, reduction: str = "mean"):
        self.loaded = loaded
        self.context = context
        self.reduction = reduction
        self.generator = torch.Generator().manual_seed(context.seed)

    def tensor(self, member: Member) -> Tensor:
        """The present values of a member's tensor."""
        return tensor_named(self.loaded.module, member.name)


def tensor_named(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its full name, without its graph."""
    owner, _, attribute = name.rpartition(".")
    return getattr(get_module(module, owner), attribute).detach()
