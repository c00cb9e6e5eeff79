"""Images with boxes, in torchvision's form; sizes of images and boxes change together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...preprocessing import resized_map
from ..folders import picture, resized

#: (height, width) -> boxes (n, 4) as x0, y0, x1, y1 in pixels, labels (n,), and masks (n, height, width) or None
Found = Callable[[int, int], tuple[Tensor, Tensor, Tensor | None]]


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
        """(channels, height, width) uint8, and boxes, labels and perhaps masks."""
        image = picture(self.paths[index], self.channels)
        height, width = image.shape[-2:]
        boxes, labels, masks = self.found[index](height, width)
        limit = torch.tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # torchvision refuses boxes without an area
        if self.size is not None:
            boxes = boxes * torch.tensor([self.size[1] / width, self.size[0] / height] * 2)
        target = {"boxes": boxes[kept], "labels": labels[kept]}
        if masks is not None:
            target["masks"] = resized_map(masks, self.size)[kept]
        return resized(image, self.size), target
