"""Models that take images of bytes: scaling and normalization are part of the graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.types import Inputs, call
from .dynamic_axes import Axes

_AXES = {0: 0, 1: 3, 2: 1, 3: 2}  # of (batch, channels, height, width) in (batch, height, width, channels)


class Preprocessed(nn.Module):
    """A model behind its preprocessing: bytes (batch, height, width, channels) to what the model takes of them.

    Args:
        model: takes one image (batch, channels, height, width) in float, by position or by name.
        wanted: mean, std and order, as `description.preprocessing_of` returns them.
        keyword: the model's name for the image; "" hands it on by position.
    Raises:
        InputError: if `wanted` is empty: the model takes anything but one image of 1 or 3 channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, wanted: Mapping[str, Any], keyword: str = ""):
        super().__init__()
        if not wanted:
            raise InputError("preprocess 'inside': the model takes something else than one image of 1 or 3 channels")
        self.model = model
        self.register_buffer("mean", torch.tensor(wanted["mean"]).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(wanted["std"]).reshape(1, -1, 1, 1))
        self._flips, self._keyword = wanted["order"] == "bgr", keyword

    def forward(self, image: Tensor) -> Any:
        values = image.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        values = values.flip(1) if self._flips else values
        values = (values - self.mean) / self.std
        return self.model(**{self._keyword: values}) if self._keyword else self.model(values)

    def around(self, model: nn.Module) -> Preprocessed:
        """Another model behind the same preprocessing."""
        other = copy.copy(self)
        other._modules = {"model": model}
        return other

    def as_bytes(self, inputs: Inputs) -> Tensor:
        """The image of bytes that becomes the nearest to inputs as the model takes them."""
        tensors = (
            [inputs] if isinstance(inputs, Tensor) else list(inputs.values() if isinstance(inputs, Mapping) else inputs)
        )
        image = tensors[0]
        values = (image.float() * self.std + self.mean).clamp(0, 1) * 255
        values = values.flip(1) if self._flips else values
        return values.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class FromFloats(nn.Module):
    """A model of bytes that is called with what the model inside takes, as data gives it.

    Args:
        runner: takes images of bytes.
        wrapper: says what the bytes are.
    """

    def __init__(self, runner: nn.Module, wrapper: Preprocessed):
        super().__init__()
        self._runner, self._wrapper = runner, wrapper

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return call(self._runner, self._wrapper.as_bytes(kwargs or args))


def in_bytes(axes: Sequence[Axes]) -> list[Axes]:
    """The free dimensions of an image, where its bytes have them."""
    return [{_AXES[axis]: name for axis, name in axes[0].items()}]
