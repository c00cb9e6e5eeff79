"""Images with boxes, in torchvision's form; sizes of images and boxes change together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...preprocessing import resized_with
from ..folders import picture, resized

#: (height, width) -> boxes (n, 4) as x0, y0, x1, y1 in pixels, labels (n,), and what else belongs to each: masks
#: (n, height, width), keypoints (n, points, 3) as x, y in pixels and how visible they are (0: not labelled)
Found = Callable[[int, int], tuple[Tensor, Tensor, Mapping[str, Tensor]]]


@dataclass
class Boxed(Dataset[Any]):
    """Images and what is in them.

    Attributes:
        paths: image files.
        found: of each, what is in it.
        size: (height, width) that images are stretched to; None keeps their own.
        channels: of an image.
    """

    paths: list[Path]
    found: list[Found]
    size: tuple[int, int] | None
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(channels, height, width) uint8, and boxes, labels and perhaps masks and keypoints."""
        image = picture(self.paths[index], self.channels)
        height, width = image.shape[-2:]
        boxes, labels, others = self.found[index](height, width)
        limit = torch.tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # torchvision refuses boxes without an area
        target = {"boxes": boxes, "labels": labels, **others}
        target = {name: value[kept] for name, value in target.items()}
        return resized(image, self.size), target if self.size is None else resized_with(target, image, self.size)
