"""Training inputs without labels, beside labelled data that serves for validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..core.errors import InputError, nearest
from ..data.arrays import check_inputs, names_in_npz, read_npz, to_tensor
from ..data.batches import Batches, StreamBatches
from ..data.dataset import Data
from ..data.images import SUFFIXES, find_images
from ..data.splits.arrays import ArraySplit
from ..data.splits.files import FileSplit
from ..data.worker_processes import Workers

_NO_LABEL = -1


class UnlabelledData(Data):
    """Data whose training split is taken from somewhere else and has no labels.

    Args:
        labelled: gives the other splits and the preprocessing.
        location: a folder of images at any depth, or an .npz file with an array `x`.
    Raises:
        InputError: if there is nothing to read.
    """

    def __init__(self, labelled: Data, location: str):
        self._labelled = labelled
        self._split = _read(location, labelled)
        self.name = f"{labelled.name}, training inputs from {location}"
        self.num_classes, self.input_shape, self.note = labelled.num_classes, labelled.input_shape, labelled.note
        self.example, self.transform, self.classes = labelled.example, labelled.transform, labelled.classes
        self.applied, self.workers = labelled.applied, labelled.workers

    def size(self, split: str, at_most: int | None = None) -> int:
        """Number of examples in a split, at most `at_most`."""
        if split != "train":
            return self._labelled.size(split, at_most)
        return min(len(self._split), at_most or len(self._split))

    def known_size(self, split: str) -> int | None:
        """Number of examples in a split; None for a stream that would have to be read to count them."""
        return len(self._split) if split == "train" else self._labelled.known_size(split)

    def batches(self, split: str, **options: Any) -> Batches | StreamBatches:
        """Batches of (inputs, targets) as Data gives them; training targets are all -1."""
        if split != "train":
            return self._labelled.batches(split, **options)
        limit = options.pop("limit", None)
        indices = torch.arange(len(self._split))
        if limit is not None and limit < len(indices):
            indices = (torch.arange(limit) * len(indices)) // limit
        workers = Workers(self.workers or 0)
        return Batches(self._split, indices=indices, transform=self.transform, workers=workers, **options)


def _read(location: str, labelled: Data) -> ArraySplit | FileSplit:
    path = Path(location)
    if path.suffix == ".npz" and path.is_file():
        return _read_npz(path)
    if not path.is_dir():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"unlabelled {location!r} is neither a folder nor an .npz file{nearest(path.name, siblings)}")
    paths = find_images(path)
    if not paths:
        raise InputError(f"unlabelled folder {location!r} holds no images ({', '.join(SUFFIXES)})")
    if labelled.input_shape is None or len(labelled.input_shape) != 3:
        raise InputError(f"unlabelled folder {location!r}: the data {labelled.name!r} is not of images")
    channels, height, width = labelled.input_shape
    return FileSplit(paths, torch.full((len(paths),), _NO_LABEL), (height, width), channels)


def _read_npz(path: Path) -> ArraySplit:
    array = read_npz(str(path), ("x",)).get("x")
    if array is None or not array.ndim or not len(array):
        held = ", ".join(names_in_npz(str(path))[:20])
        raise InputError(f"unlabelled {str(path)!r} needs an array 'x' with examples; it has {held}")
    inputs = to_tensor(array, f"unlabelled {str(path)!r}: x")
    check_inputs(inputs, str(path))
    inputs = inputs.float() if inputs.dtype == torch.float64 else inputs
    return ArraySplit(inputs, torch.full((len(inputs),), _NO_LABEL))
