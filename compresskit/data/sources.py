"""Reading data sets from disk or from a package into splits of examples."""

from __future__ import annotations

import csv as csv_module
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..core.errors import InputError, nearest, require
from ..core.limits.reading import check_regular
from ..core.types import Preprocessing
from ..core.user_code.user_imports import guarded
from .arrays import check_inputs, check_targets, names_in_npz, read_npz, to_tensor
from .images import SUFFIXES, as_pixels, decode, find_images, size_and_bands

_SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_CACHED_BYTES = 2 << 30  # decoded images up to this size are kept in memory and in the cache folder
_NPZ_NAMES = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test")
_SHOWN_NAMES = 20
_TEST_SHARE = 0.2
_SPLIT_SEED = 20180908


class Split(Protocol):
    """Examples taken by index: `take(indices) -> (inputs, targets)`; uint8 inputs are images in [0, 255].

    A split that is `as_given` holds what the model takes already: nothing is scaled or normalized. One whose `draws` is
    False draws no random numbers; any other is read under a seed of the batch's own. `workers` (a `Workers`) are the
    processes that read it where the options do not say how many.
    """

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> tuple[Any, Tensor]: ...


@dataclass
class Splits:
    """What a reader returns; a missing val is held out from train later."""

    train: Split
    test: Split
    val: Split | None = None
    num_classes: int | None = None
    note: str = ""


@dataclass
class ArraySplit:
    """Examples in memory: inputs (n, ...), targets (n, ...)."""

    inputs: Tensor
    targets: Tensor
    as_given: bool = False  # whether images of whole numbers stay what they are, too
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.inputs[indices], self.targets[indices]

    def subset(self, indices: Tensor) -> ArraySplit:
        """Fewer of the examples."""
        return ArraySplit(self.inputs[indices], self.targets[indices], self.as_given)


@dataclass
class FileSplit:
    """Image files that are decoded, resized and centre-cropped as they are taken."""

    paths: list[Path]
    targets: Tensor
    size: tuple[int, int]
    channels: int
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        def read(index: int) -> np.ndarray:
            return decode(self.paths[index], self.size, self.channels)

        if get_worker_info() is not None:  # the processes beside this one keep the other cores busy
            images = list(map(read, indices.tolist()))
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                images = list(pool.map(read, indices.tolist()))
        return torch.from_numpy(np.stack(images)), self.targets[indices]

    def subset(self, indices: Tensor) -> FileSplit:
        """Fewer of the files."""
        return FileSplit([self.paths[i] for i in indices.tolist()], self.targets[indices], self.size, self.channels)


def digits(location: str, preprocessing: Preprocessing) -> Splits:
    """The 8x8 digits of scikit-learn, in [0, 1], a fifth of them held out as test."""
    if location:
        raise InputError(f"data 'digits' takes no location, got {location!r}")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    targets = torch.from_numpy(bunch.target).long()
    train, test = train_test_split(
        np.arange(len(targets)), test_size=_TEST_SHARE, random_state=0, stratify=bunch.target
    )
    return Splits(ArraySplit(inputs[train], targets[train]), ArraySplit(inputs[test], targets[test]), num_classes=10)


def imagefolder(location: str, preprocessing: Preprocessing) -> Splits:
    """Images as DIR/SPLIT/CLASS/FILE, or DIR/CLASS/FILE with a fifth held out as test; classes sorted by name."""
    root = Path(location)
    if not root.is_dir():
        raise InputError(f"data directory {location!r} does not exist")
    folders = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in _SPLIT_FOLDERS.items()
    }
    if folders["train"] is None:
        return _flat_imagefolder(root, preprocessing)
    classes = sorted(entry.name for entry in folders["train"].iterdir() if entry.is_dir())
    train = _image_split(folders["train"], classes, preprocessing)
    test, val = (
        _image_split(folder, classes, preprocessing) if folder else None for folder in (folders["test"], folders["val"])
    )
    if test is not None:
        return Splits(train, test, val, len(classes))
    if val is None:
        raise InputError(f"data directory {location!r} has a train folder but neither test nor val")
    return Splits(train, val, None, len(classes), "test is the val folder; val is held out from train")


def _flat_imagefolder(root: Path, preprocessing: Preprocessing) -> Splits:
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not classes:
        raise InputError(
            f"data directory {str(root)!r} holds no class folders (expected SPLIT/CLASS/FILE or CLASS/FILE)"
        )
    return divided(_image_split(root, classes, preprocessing), len(classes))


def divided(split: Any, num_classes: int | None) -> Splits:
    """A fifth of a split held out as test, by a fixed permutation."""
    if len(split) < 2:
        raise InputError("1 example is too few to hold a test split out; give (train, test)")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    cut = max(int(len(split) * _TEST_SHARE), 1)
    note = f"no test split was there; {cut} examples were held out by a fixed permutation"
    return Splits(split.subset(order[cut:]), split.subset(order[:cut]), None, num_classes, note)


def _image_split(folder: Path, classes: list[str], preprocessing: Preprocessing) -> ArraySplit | FileSplit:
    unknown = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in classes)
    if unknown:
        raise InputError(f"{str(folder)!r}: class folder {unknown[0]!r} is not in train{nearest(unknown[0], classes)}")
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        found = find_images(folder / name)
        paths += found
        targets += [label] * len(found)
    if not paths:
        raise InputError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    own_size, bands = size_and_bands(paths[0])
    channels = preprocessing.channels or bands
    size = preprocessing.size or own_size
    split = FileSplit(paths, torch.tensor(targets), (size[0], size[1]), 1 if channels == 1 else 3)
    if len(paths) * split.channels * size[0] * size[1] <= _CACHED_BYTES:
        return ArraySplit(_cached(split, folder), split.targets)
    return split


def cache_folder() -> Path:
    """Where decoded data is kept between runs: $XDG_CACHE_HOME/compresskit or ~/.cache/compresskit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compresskit"


def _cached(split: FileSplit, folder: Path) -> Tensor:
    """All images of a split decoded; kept as .npy under a key of paths, sizes and times."""
    key = hashlib.sha256(repr((split.size, split.channels)).encode())
    for path in split.paths:
        stat = path.stat()
        key.update(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    cache = cache_folder() / "images" / f"{key.hexdigest()[:32]}.npy"
    if cache.is_file():
        try:
            return torch.from_numpy(np.load(cache))
        except (ValueError, OSError, EOFError):
            cache.unlink(missing_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.stack(list(pool.map(lambda path: decode(path, split.size, split.channels), split.paths)))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, images)
        temporary.replace(cache)
    except OSError:  # a cache that cannot be written only costs time
        pass
    return torch.from_numpy(images)


def npz(location: str, preprocessing: Preprocessing) -> Splits:
    """Arrays x_train, y_train, x_test, y_test (and x_val, y_val), or x and y, of a NumPy archive."""
    arrays = read_npz(location, _NPZ_NAMES)
    if "x" in arrays and "y" in arrays:
        split = array_split(arrays["x"], arrays["y"], location)
        return divided(split, classes_of(split.targets))
    wanted = [f"{axis}_{split}" for split in ("train", "test") for axis in "xy"]
    for name in wanted:
        if name not in arrays:
            held = names_in_npz(location)
            raise InputError(f"data file {location!r} lacks array {name!r}{nearest(name, held[:_SHOWN_NAMES])}")
    train, test = (array_split(arrays[f"x_{s}"], arrays[f"y_{s}"], location) for s in ("train", "test"))
    val = array_split(arrays["x_val"], arrays["y_val"], location) if "x_val" in arrays and "y_val" in arrays else None
    return Splits(train, test, val, classes_of(train.targets))


def csv(location: str, preprocessing: Preprocessing) -> Splits:
    """Numeric columns of a CSV file with a header; whole-number targets are classes."""
    rows = _csv_rows(location)
    if len(rows) < 3:
        raise InputError(f"data file {location!r} needs a header and at least two rows")
    header = rows[0][1]
    if len(header) < 2:
        raise InputError(f"data file {location!r} needs at least two columns, inputs and a target")
    target = next((header.index(name) for name in ("label", "target") if name in header), len(header) - 1)
    for line, row in rows[1:]:
        if len(row) != len(header) or not all(map(_is_number, row)):
            raise InputError(f"data file {location!r}, line {line}: every row needs {len(header)} numbers")
    table = np.array([[float(cell) for cell in row] for _, row in rows[1:]], dtype=np.float64)
    inputs = np.delete(table, target, axis=1).astype(np.float32)
    split = array_split(inputs, table[:, target], location)
    return divided(split, classes_of(split.targets))


def _csv_rows(location: str) -> list[tuple[int, list[str]]]:
    """(line that it ends on, cells) of every row that is not empty."""
    check_regular(location, f"data file {location!r}")
    with open(location, newline="", encoding="utf-8-sig") as file:
        reader = csv_module.reader(file)
        try:
            return [(reader.line_num, row) for row in reader if row]
        except UnicodeDecodeError as error:
            raise InputError(f"data file {location!r} is not UTF-8: {error}; save it as UTF-8") from error
        except csv_module.Error as error:
            raise InputError(f"data file {location!r}, line {reader.line_num}: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def hf(location: str, preprocessing: Preprocessing) -> Splits:
    """A Hugging Face data set (a folder written by save_to_disk, or an identifier) with columns image and label."""
    datasets = require("datasets", "hf")
    with guarded(f"data 'hf:{location}'", "while it was loaded"):
        found = datasets.load_from_disk(location) if Path(location).is_dir() else datasets.load_dataset(location)
    parts = {split: next((found[n] for n in names if n in found), None) for split, names in _SPLIT_FOLDERS.items()}
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


def array_split(inputs: Any, targets: Any, where: str) -> ArraySplit:
    """Arrays of a file or factory as a split; float targets that count from 0 in whole numbers are classes."""
    inputs, targets = to_tensor(inputs, f"data {where!r}: inputs"), to_tensor(targets, f"data {where!r}: targets")
    if len(inputs) != len(targets):
        raise InputError(f"data {where!r}: {len(inputs)} inputs but {len(targets)} targets")
    if inputs.dtype == torch.float64:
        inputs = inputs.float()
    check_inputs(inputs, where)
    check_targets(targets, where)
    if (
        targets.is_floating_point()
        and targets.dim() == 1
        and bool((targets == targets.round()).all())
        and bool((targets >= 0).all())
    ):
        targets = targets.long()
    return ArraySplit(inputs, targets.float() if targets.is_floating_point() else targets.long())


def classes_of(targets: Tensor) -> int | None:
    """Number of classes, or None where targets are not classes."""
    whole = not targets.is_floating_point() and targets.dim() == 1 and len(targets)
    return int(targets.max()) + 1 if whole else None
