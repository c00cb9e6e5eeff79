"""A Hugging Face data set of images and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import InputError, require
from ...core.types import Preprocessing
from ...core.user_code.user_imports import guarded
from ..images import as_pixels
from ..splits.arrays import ArraySplit, array_split
from ..splits.base import Splits, classes_of
from .imagefolder import SPLIT_FOLDERS


def hf(location: str, preprocessing: Preprocessing) -> Splits:
    """A Hugging Face data set (a folder written by save_to_disk, or an identifier) with columns image and label."""
    datasets = require("datasets", "hf")
    with guarded(f"data 'hf:{location}'", "while it was loaded"):
        found = datasets.load_from_disk(location) if Path(location).is_dir() else datasets.load_dataset(location)
    parts = {split: next((found[n] for n in names if n in found), None) for split, names in SPLIT_FOLDERS.items()}
    if parts["train"] is None or (parts["test"] or parts["val"]) is None:
        raise InputError(f"data 'hf:{location}' needs a train split and a test or validation split")
    if parts["test"] is None:
        parts["test"], parts["val"] = parts["val"], None
    train, test = (_hf_split(parts[name], location, preprocessing) for name in ("train", "test"))
    val = None if parts["val"] is None else _hf_split(parts["val"], location, preprocessing)
    return Splits(train, test, val, classes_of(train.targets))


def _hf_split(part: Any, location: str, preprocessing: Preprocessing) -> ArraySplit:
    image = next((name for name in ("image", "img", "pixel_values") if name in part.column_names), None)
    label = next((name for name in ("label", "labels", "fine_label") if name in part.column_names), None)
    if image is None or label is None:
        raise InputError(f"data 'hf:{location}' needs columns image and label, it has {', '.join(part.column_names)}")
    channels = preprocessing.channels or 3
    with guarded(f"data 'hf:{location}'", "while its images were read"):
        size = preprocessing.size or part[0][image].size[::-1]
        stacked = np.stack([as_pixels(item, size, channels) for item in part[image]])
        labels = torch.tensor(part[label])
    stacked = stacked.transpose(0, 3, 1, 2) if channels == 3 else stacked[:, None]
    return array_split(np.ascontiguousarray(stacked), labels, f"hf:{location}")
