"""The weights of a training run: as trained, their moving average, and the best so far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...core.types import Loaded
from . import checkpoint


class TrainedWeights:
    """The weights of one module that is being trained.

    Args:
        loaded: its module gets the kept weights at the end; tensors stored as "bitmap" keep their zeros.
        sharded: the sharded copy that is trained in its place, or None.
        decay: of the moving average, or None for no average.
    """

    def __init__(self, loaded: Loaded, sharded: Any, decay: float | None):
        self._module, self._sharded, self._decay = loaded.module, sharded, decay
        self._masks = zero_masks(loaded)
        self.average: dict[str, Tensor] = self.copied() if decay else {}
        self.best: dict[str, Tensor] = {}

    def current(self) -> dict[str, Tensor]:
        """Weights and buffers as they are now; whole tensors where they are sharded."""
        return self._sharded.weights() if self._sharded else self._module.state_dict()

    def copied(self) -> dict[str, Tensor]:
        """The same, detached from what follows."""
        return {name: value.detach().clone() for name, value in self.current().items()}

    def put(self, weights: dict[str, Tensor]) -> None:
        """Undo `current`."""
        if self._sharded:
            self._sharded.set_weights(weights)
        else:
            self._module.load_state_dict(weights)

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        """Hold the zeros and move the average, after the optimizer's step with this number."""
        for parameter, mask in self._masks:
            parameter.mul_(mask).add_(0.0)  # a negative zero would be stored as a value
        if not self._decay:
            return
        # a short memory at first, so that the random start is forgotten
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self.current().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def keep_as_best(self) -> None:
        """Remember the weights that are in the module now."""
        self.best = self.copied()

    def load_kept(self) -> None:
        """Put the best weights, else the average, else the last into the whole module."""
        weights = self.best or self.average or (self.current() if self._sharded else None)
        if weights:
            self._module.load_state_dict(weights)

    def tensors(self, *, finished: bool) -> dict[str, Tensor]:
        """What a checkpoint keeps of it; weights are sharded as they are, averages and the best are whole."""
        if finished:
            return checkpoint.prefixed("module", self._module.state_dict())
        weights = self._sharded.parts() if self._sharded else self.current()
        return checkpoint.prefixed("module", weights) | self._rest()

    def _rest(self) -> dict[str, Tensor]:
        return checkpoint.prefixed("average", self.average) | checkpoint.prefixed("best", self.best)

    def restore(self, tensors: dict[str, Tensor], *, finished: bool) -> None:
        """Undo `tensors`."""
        weights = checkpoint.under("module", tensors)
        if finished:
            self._module.load_state_dict(weights)
            return
        self.put(weights)
        device = next(iter(self.current().values())).device
        self.average = {name: value.to(device) for name, value in checkpoint.under("average", tensors).items()}
        self.best = checkpoint.under("best", tensors)


def zero_masks(loaded: Loaded) -> list[tuple[nn.Parameter, Tensor]]:
    """Parameters stored as bitmaps, with what is not zero in them."""
    parameters = dict(loaded.module.named_parameters(remove_duplicate=False))
    return [
        (parameters[name], parameters[name].detach() != 0)
        for name, codec in loaded.storage.items()
        if codec == "bitmap" and name in parameters
    ]
