"""What is done to images on their way to a model: scaled, resized, normalized, channels put in order; and saying so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import InputError, nearest
from ..core.types import Preprocessing

#: arguments of every data string; a factory that has a parameter of such a name gets it itself
ARGUMENTS = ("size", "channels", "mean", "std", "order", "preprocess")
_ORDERS = ("rgb", "bgr")
_PREPROCESS = ("auto", "model", "none")
_LARGEST_SIDE = 8192  # pixels
_MOST_CHANNELS = 1024


@dataclass(frozen=True)
class ImageTransform:
    """What is applied to every batch of a data set, and to nothing but images.

    Attributes:
        wanted: size, normalization and channels.
        order: of three channels, rgb (as files are decoded) or bgr.
        scales: whether images of bytes become floats in [0, 1].
        stacks: whether a list of images without boxes becomes one tensor when they got one size.
    """

    wanted: Preprocessing = Preprocessing()
    order: str = "rgb"
    scales: bool = True
    stacks: bool = False

    def __call__(self, inputs: Any) -> Any:
        """Inputs as the model takes them: (batch, channels, height, width), or ([(channels, height, width), ...],)."""
        if _is_listed(inputs):
            return ([self._one(image) for image in inputs[0]],)
        if isinstance(inputs, tuple):  # images of files beside other inputs
            return tuple(self._batch(self.scaled(part)) if _are_bytes(part) else part for part in inputs)
        return self._batch(self.scaled(inputs)) if isinstance(inputs, Tensor) else inputs

    def pair(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Inputs as the model takes them; boxes, masks and maps of their pixels at the size that the images got.

        Args:
            inputs: (batch, channels, height, width), or a tuple of one list of images.
            targets: of any structure; what does not lie on pixels stays what it is.
        """
        found, size = self(inputs), self.wanted.size
        images = inputs[0] if _is_listed(inputs) else inputs
        if size is None or not _are_images(images):
            return found, targets
        if isinstance(targets, list):
            targets = [resized_with(target, image, size) for target, image in zip(targets, images, strict=True)]
        elif isinstance(images, Tensor):
            targets = resized_with(targets, images, size)
        if self.stacks and isinstance(found, tuple) and not _has_boxes(targets):
            return torch.stack(found[0]), _stacked(targets)
        return found, targets

    def scaled(self, inputs: Any) -> Any:
        """Images of bytes as floats in [0, 1]."""
        if _is_listed(inputs):
            return ([self.scaled(image) for image in inputs[0]],)
        if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8 and self.scales:
            return inputs.float() / 255
        return inputs

    def described(self, raw: Any) -> str:
        """What is applied to images, as one line; "" where there are none.

        Args:
            raw: inputs of one example, before anything is applied.
        """
        if isinstance(raw, tuple) and not _is_listed(raw):
            raw = next((part for part in raw if _are_bytes(part)), None)
        first = raw[0][0] if _is_listed(raw) else raw
        if not isinstance(first, Tensor) or first.dim() != (4 if first is raw else 3):
            return ""
        wanted = self.wanted
        applied = [
            *(["bytes scaled to [0, 1]"] if self.scales and first.dtype == torch.uint8 else []),
            *([f"resized to {wanted.size[0]}x{wanted.size[1]}"] if wanted.size else []),
            *([f"given {wanted.channels} channel{'s' * (wanted.channels != 1)}"] if wanted.channels else []),
            *(["put in the channel order bgr"] if self.order == "bgr" else []),
            *([f"normalized with mean {_listed(wanted.mean)} and std {_listed(wanted.std)}"] if wanted.mean else []),
        ]
        return f"images are {', '.join(applied)}" if applied else "images are taken as given"

    def _one(self, image: Any) -> Any:
        if not isinstance(image, Tensor) or image.dim() != 3:
            return image
        return self._batch(self.scaled(image)[None])[0]

    def _batch(self, inputs: Tensor) -> Tensor:
        if self.order == "bgr" and inputs.dim() == 4 and inputs.shape[1] == 3:
            inputs = inputs.flip(1)
        return preprocess(inputs, self.wanted)


def preprocess(inputs: Tensor, wanted: Preprocessing) -> Tensor:
    """Fit images in [0, 1] to a model: channels, size, normalization; other tensors pass as they are.

    Args:
        inputs: (batch, channels, height, width), or anything else.
        wanted: what the model expects.
    """
    if inputs.dim() != 4:
        return inputs
    if wanted.channels and wanted.channels != inputs.shape[1]:
        if inputs.shape[1] == 1:
            inputs = inputs.expand(-1, wanted.channels, -1, -1)
        elif wanted.channels == 1:
            inputs = inputs.mean(1, keepdim=True)
        else:
            raise InputError(f"the data has {inputs.shape[1]} channels, the model takes {wanted.channels}")
    if wanted.size and tuple(inputs.shape[2:]) != tuple(wanted.size):
        inputs = _interpolated(inputs, wanted.size)
    if wanted.mean:
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (wanted.mean, wanted.std))
        if mean.shape[1] in (1, inputs.shape[1]):
            inputs = (inputs - mean) / std
    return inputs


def resized_map(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Classes or masks (..., height, width) of another size: each pixel takes the nearest one."""
    if size is None or tuple(values.shape[-2:]) == tuple(size):
        return values
    height, width = values.shape[-2:]
    rows = ((torch.arange(size[0]) + 0.5) * height / size[0]).long().clamp(max=height - 1)
    columns = ((torch.arange(size[1]) + 0.5) * width / size[1]).long().clamp(max=width - 1)
    return values[..., rows, :][..., columns]


def resized_with(target: Any, images: Tensor, size: tuple[int, int]) -> Any:
    """What lies on the pixels of images, where these get a size: boxes and masks of a mapping, or maps.

    Args:
        target: a mapping with boxes (n, 4) in pixels, perhaps masks (n, height, width), keypoints (n, points, 3) and
            area (n,); maps (..., height, width), also inside of mappings and tuples. Anything else stays.
        images: (channels, height, width) or (batch, channels, height, width), before they get it.
        size: (height, width) that they get.
    """
    before = (int(images.shape[-2]), int(images.shape[-1]))
    if before == tuple(size):
        return target
    if isinstance(target, Mapping) and isinstance(target.get("boxes"), Tensor):
        tall, wide = size[0] / before[0], size[1] / before[1]
        changed = {"boxes": target["boxes"] * torch.tensor([wide, tall] * 2)}
        if isinstance(target.get("masks"), Tensor):
            changed["masks"] = resized_map(target["masks"], size)
        if isinstance(target.get("keypoints"), Tensor):
            changed["keypoints"] = target["keypoints"] * torch.tensor([wide, tall, 1.0])
        if isinstance(target.get("area"), Tensor):
            changed["area"] = target["area"] * (tall * wide)
        return {**target, **changed}
    if isinstance(target, Mapping):
        return {name: resized_with(value, images, size) for name, value in target.items()}
    if isinstance(target, tuple):
        return tuple(resized_with(value, images, size) for value in target)
    if not isinstance(target, Tensor) or target.dim() < images.dim() - 1 or tuple(target.shape[-2:]) != before:
        return target
    if not target.is_floating_point():
        return resized_map(target, size)
    return _interpolated(target.reshape(-1, 1, *before), size).reshape(*target.shape[:-2], *size)


def _interpolated(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)


def _is_listed(inputs: Any) -> bool:
    """Whether inputs are a list of images, as the one argument of forward."""
    return isinstance(inputs, tuple) and len(inputs) == 1 and isinstance(inputs[0], list)


def _are_images(inputs: Any) -> bool:
    """Whether inputs are (batch, channels, height, width), or a list of (channels, height, width)."""
    if isinstance(inputs, list):
        return bool(inputs) and all(isinstance(image, Tensor) and image.dim() == 3 for image in inputs)
    return isinstance(inputs, Tensor) and inputs.dim() == 4


def _are_bytes(part: Any) -> bool:
    """Whether one of several inputs is images in bytes, (batch, channels, height, width)."""
    return isinstance(part, Tensor) and part.dim() == 4 and part.dtype == torch.uint8


def _has_boxes(targets: Any) -> bool:
    return isinstance(targets, list) and any(isinstance(target, Mapping) and "boxes" in target for target in targets)


def _stacked(targets: Any) -> Any:
    """A list of tensors of one shape as one tensor; anything else as it is."""
    if not isinstance(targets, list) or not all(isinstance(one, Tensor) for one in targets):
        return targets
    return torch.stack(targets) if len({one.shape for one in targets}) == 1 else targets


@dataclass(frozen=True)
class Asked:
    """What the data's arguments ask for.

    Attributes:
        size, mean, std, order, channels: as given; None where they are not.
        preprocess: whether the model's own preprocessing applies: auto leaves it to the form of the data.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: str = "rgb"
    preprocess: str = "auto"
    channels: int | None = None

    def wanted(self, model: Preprocessing) -> Preprocessing:
        """What a model expects, with the size and channels that were asked for in the place of its own."""
        size, channels = self.size or model.size, self.channels or model.channels
        return replace(model, size=size, channels=channels)

    def applied(self, model: Preprocessing, *, by_default: bool) -> ImageTransform:
        """What is applied: the model's preprocessing where it counts, and what was asked for in its place.

        Args:
            model: what the model expects.
            by_default: whether `auto` means the model's preprocessing for this form of data.
        """
        counts = self.preprocess == "model" or (self.preprocess == "auto" and by_default)
        wanted = self.wanted(model if counts else Preprocessing())
        if self.mean is not None and self.std is not None:
            wanted = replace(wanted, mean=self.mean, std=self.std)
        return ImageTransform(
            wanted, self.order, scales=by_default or wanted != Preprocessing() or self.preprocess == "model"
        )


def take_arguments(args: dict[str, Any], where: str, own: Sequence[str] = ()) -> tuple[Asked, dict[str, Any]]:
    """The arguments that say what is done to images, and the others.

    Args:
        args: as the user gave them.
        where: what errors call the data.
        own: names that belong to the reader or factory, whatever they mean here.
    Raises:
        InputError: naming the argument that is out of range.
    """
    mine = {name: args[name] for name in args if name in ARGUMENTS and name not in own}
    rest = {name: value for name, value in args.items() if name not in mine}
    mean, std = (_numbers(mine, name, where) for name in ("mean", "std"))
    if (mean is None) != (std is None):
        raise InputError(f"data {where}: give mean and std together")
    if mean is not None and std is not None and (len(mean) != len(std) or min(std) <= 0):
        raise InputError(f"data {where}: mean and std need one number a channel each, std above 0")
    order, how = (
        _one_of(mine, name, known, where) for name, known in (("order", _ORDERS), ("preprocess", _PREPROCESS))
    )
    return Asked(_size(mine, where), mean, std, order, how, _channels(mine, where)), rest


def refuse_unknown(rest: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises InputError for the first argument that is none of the known ones, naming the nearest."""
    known = [*ARGUMENTS, *known]
    for name in rest:
        if name not in known:
            raise InputError(f"data {where}: unknown argument {name!r}{nearest(name, known)}")


def _size(given: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    if "size" not in given:
        return None
    value = given["size"]
    try:
        parts = value.replace("x", ",").split(",") if isinstance(value, str) else value
        sides = [int(part) for part in parts] if isinstance(parts, list | tuple) else [int(parts)]
    except (TypeError, ValueError, OverflowError):
        sides = []
    if len(sides) not in (1, 2) or not all(1 <= side <= _LARGEST_SIDE for side in sides):
        raise InputError(
            f"data {where}: size must be an integer from 1 to {_LARGEST_SIDE}, or HEIGHTxWIDTH, got {value!r:.60}"
        )
    return sides[0], sides[-1]


def _channels(given: Mapping[str, Any], where: str) -> int | None:
    if "channels" not in given:
        return None
    text = str(given["channels"])
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_CHANNELS:
        raise InputError(f"data {where}: channels must be an integer from 1 to {_MOST_CHANNELS}, got {text!r:.60}")
    return int(text)


def _numbers(given: Mapping[str, Any], name: str, where: str) -> tuple[float, ...] | None:
    if name not in given:
        return None
    value = given[name]
    try:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        numbers = tuple(float(part) for part in parts)
        if not numbers or not all(abs(number) < 1e9 for number in numbers):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"data {where}: {name} must be a number, or one a channel as 0.5,0.4,0.3, got {value!r:.60}"
        ) from None
    return numbers


def _one_of(given: Mapping[str, Any], name: str, known: Sequence[str], where: str) -> str:
    value = given.get(name, known[0])
    if value not in known:
        raise InputError(f"data {where}: {name} is one of {', '.join(known)}, got {value!r:.60}")
    return str(value)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
