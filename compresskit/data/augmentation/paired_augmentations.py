"""Augmentations that move pixels, where targets lie on the pixels: boxes, masks and maps move with their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, require
from ...core.tensors.randomness import manual_seed

_IGNORED = -100  # class of pixels that come from outside of an image
_SMALLEST_BOX = 1.0  # pixels a side; smaller ones are what a crop left of an object


def lies_on_pixels(inputs: Any, targets: Any) -> bool:
    """Whether targets are boxes, or maps of the height and width of the inputs."""
    if isinstance(targets, list):
        return any(isinstance(target, Mapping) and "boxes" in target for target in targets)
    dense = isinstance(inputs, Tensor) and inputs.dim() == 4 and isinstance(targets, Tensor) and targets.dim() >= 3
    return dense and targets.shape[-2:] == inputs.shape[-2:]


def move(name: str, inputs: Any, targets: Any, generator: torch.Generator) -> tuple[Any, Any]:
    """Images and their targets changed together, each image by draws of its own.

    Args:
        name: a row of AUGMENTATIONS whose attribute `paired` is true.
        inputs: (batch, channels, height, width), or a tuple of one list of images (channels, height, width).
        targets: a list of mappings with boxes (n, 4) as x0, y0, x1, y1 and labels (n,), perhaps masks (n, height,
            width) and keypoints (n, points, 3); or maps (batch, [channels,] height, width). Pixels from outside of an
            image are of the class -100.
        generator: of the draws.
    Returns:
        the same structures; boxes of which less than a pixel is left are gone.
    """
    with_points = isinstance(targets, list) and any("keypoints" in one for one in targets if isinstance(one, Mapping))
    if name == "flip" and with_points:
        raise InputError("augment 'flip' would exchange the keypoints of left and right; leave it out")
    listed = isinstance(inputs, tuple)
    images = inputs[0] if listed else inputs.unbind()
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        manual_seed(seed)  # torchvision draws from the global generator
        pairs = [_moved(name, image, target) for image, target in zip(images, targets, strict=True)]
    changed, found = [image for image, _ in pairs], [target for _, target in pairs]
    return (
        (changed,) if listed else torch.stack(changed),
        found if isinstance(targets, list) else torch.stack(found),
    )


def _moved(name: str, image: Tensor, target: Any) -> tuple[Tensor, Any]:
    v2, tv_tensors = require("torchvision.transforms.v2", "vision"), require("torchvision.tv_tensors", "vision")
    size = (int(image.shape[-2]), int(image.shape[-1]))
    wrapped, fill = _wrapped(tv_tensors, target, size)
    transform = _TRANSFORMS[name](v2, size, {tv_tensors.Mask: fill, "others": 0})
    changed, found = transform(tv_tensors.Image(image), wrapped)
    if not isinstance(target, Mapping):
        return changed.as_subclass(Tensor), found.as_subclass(Tensor).to(target.dtype)
    boxes = found["boxes"].as_subclass(Tensor)
    kept = (boxes[:, 2:] - boxes[:, :2] >= _SMALLEST_BOX).all(1)
    if "keypoints" in target:
        found["keypoints"] = _with_visibility(found["keypoints"].as_subclass(Tensor), target, changed.shape[-2:])
    plain = {key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for key, value in found.items()}
    of_boxes = {key for key, value in target.items() if isinstance(value, Tensor) and value.shape[:1] == kept.shape}
    return changed.as_subclass(Tensor), {key: value[kept] if key in of_boxes else value for key, value in plain.items()}


def _with_visibility(points: Tensor, target: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
    """Moved points (n, points, 2) with how visible they were; those that left the image are not labelled any more."""
    inside = ((points >= 0) & (points < torch.tensor([size[1], size[0]]))).all(-1, keepdim=True)
    return torch.cat([points, target["keypoints"][..., 2:] * inside], -1)


def _wrapped(tv_tensors: Any, target: Any, size: tuple[int, int]) -> tuple[Any, int]:
    """A target that torchvision moves with its image, and what masks are filled with."""
    if isinstance(target, Mapping):
        wrapped = dict(target)
        wrapped["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        if "masks" in target:
            wrapped["masks"] = tv_tensors.Mask(target["masks"])
        if "keypoints" in target:
            wrapped["keypoints"] = tv_tensors.KeyPoints(target["keypoints"][..., :2], canvas_size=size)
        return wrapped, 0
    if target.is_floating_point():
        return tv_tensors.Image(target), 0
    return tv_tensors.Mask(target), _IGNORED


def _crop(v2: Any, size: tuple[int, int], fill: Any) -> Any:
    return v2.RandomCrop(size, padding=max(1, min(size) // 8), fill=fill)


def _flip(v2: Any, size: tuple[int, int], fill: Any) -> Any:
    return v2.RandomHorizontalFlip()


def _resized_crop(v2: Any, size: tuple[int, int], fill: Any) -> Any:
    return v2.RandomResizedCrop(size, scale=(0.5, 1.0))


_TRANSFORMS: dict[str, Callable[[Any, tuple[int, int], Any], Any]] = {
    "crop": _crop,
    "flip": _flip,
    "resizedcrop": _resized_crop,
}


def refuse(name: str) -> InputError:
    """What is raised where an augmentation would move images away from their targets."""
    paired = ", ".join(_TRANSFORMS)
    return InputError(
        f"augment {name!r} may move pixels and would leave boxes, masks or maps behind; {paired} move both, "
        "colorjitter and erase move nothing (a function of one's own says so with an attribute moves = False)"
    )
