"""Data strings: from `digits` or `imagefolder:DIR` to batches that a model takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import InputError, nearest
from ..core.registry import REFERENCE
from ..core.tensors.randomness import same_draws
from ..core.types import Preprocessing
from ..core.user_code import in_memory
from ..core.user_code.user_imports import guarded
from ..model.example_inputs import example_of
from . import loaders, sources
from .tables import READERS
from .worker_processes import Workers, in_order

Augment = Callable[[Tensor, torch.Generator], Tensor]
SPLITS = ("train", "val", "test")
_OWN_READER = re.compile(rf"({REFERENCE.removeprefix('^').removesuffix('$')}):(.+)", re.DOTALL)
_LARGEST_SIDE = 8192  # pixels
_HELD_OUT_SHARE = 0.1
_HELD_OUT_LARGEST = 5000
_HELD_OUT_SEED = 20180908  # fixed: the held-out images must not change with a run's seed


@dataclass(frozen=True)
class Batches:
    """Batches of one split, in an order that depends only on seed and epoch; iterate as often as needed.

    Attributes:
        split: the examples.
        indices: which examples, in order.
        transform: (raw inputs) -> what the model takes.
        augment: (inputs in [0, 1], generator) -> the same, before normalization.
        workers: processes that make batches ahead; they change no batch.
    """

    split: sources.Split
    indices: Tensor
    batch_size: int
    transform: Callable[[Tensor], Tensor]
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    augment: Augment | None = None
    workers: Workers = Workers()

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    @property
    def samples(self) -> int:
        """Number of examples."""
        return len(self.indices)

    def at_epoch(self, epoch: int) -> Batches:
        """The same batches in another epoch's order."""
        return replace(self, epoch=epoch)

    def order(self) -> Tensor:
        """The indices in this epoch's order."""
        if not self.shuffle:
            return self.indices
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch))
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[tuple[Any, Tensor]]:
        """Iterate from a batch on; what is random in a batch depends only on seed, epoch and its number."""
        return in_order(partial(self._batch, self.order()), range(batch, len(self)), self.workers)

    def _batch(self, order: Tensor, number: int) -> tuple[Any, Tensor]:
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        draws = getattr(self.split, "draws", True)  # a Dataset of the user's may use the global generators
        with same_draws(_mixed(self.seed, self.epoch, number, 1)) if draws else nullcontext():
            inputs, targets = self.split.take(chosen)
        if isinstance(inputs, Tensor):
            if inputs.dtype == torch.uint8 and not getattr(self.split, "as_given", False):
                inputs = inputs.float() / 255
            if self.augment is not None:
                generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch, number))
                inputs = self.augment(inputs, generator)
            inputs = self.transform(inputs)
        return inputs, targets


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number) % (1 << 63)
    return mixed


class Data:
    """An opened data set: three splits, fitted to one model's preprocessing.

    Attributes:
        name: the data string.
        num_classes: number of classes, or None where targets are not classes.
        input_shape: shape of one input as the model gets it; None where an input is not one tensor.
        example: inputs of one example, of the data's own dtypes; for models that name none.
        note: how missing splits were made, for reports; empty when all were there.
        workers: processes that make batches ahead; None takes those of the user's DataLoader, else none.
    """

    def __init__(self, name: str, splits: sources.Splits, preprocessing: Preprocessing, *, workers: int | None = None):
        self.name = name
        self.workers = workers
        self.num_classes = splits.num_classes
        self.note = splits.note
        self._preprocessing = preprocessing
        self._splits, self._indices = _three_splits(splits)
        first, _ = next(iter(self.batches("test", batch_size=1)))
        self.input_shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else None
        self.example = example_of(first)

    def size(self, split: str) -> int:
        """Number of examples in a split."""
        return len(self._indices[self._check(split)])

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        limit: int | None = None,
        augment: Augment | None = None,
    ) -> Batches:
        """Batches of (inputs, targets).

        Args:
            split: train, val (held out from train) or test.
            batch_size: examples a batch.
            shuffle: another order each epoch, decided by the seed.
            seed: decides order and augmentation.
            limit: use only this many examples, the same ones for every seed, spread over the split.
            augment: changes inputs in [0, 1] before normalization.
        """
        indices = self._indices[self._check(split)]
        if limit is not None and limit < len(indices):
            generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
            indices = indices[torch.randperm(len(indices), generator=generator)[:limit].sort().values]
        source = self._splits[split]
        workers = getattr(source, "workers", Workers())
        if self.workers is not None:
            workers = replace(workers, count=self.workers)
        return Batches(source, indices, batch_size, self._transform, shuffle, seed, 0, augment, workers)

    def calibration(self, samples: int, *, batch_size: int = 64, seed: int = 0) -> list[Tensor]:
        """Inputs of `samples` training examples in batches, unaugmented, the same for the same seed."""
        batches = self.batches("train", batch_size=batch_size, shuffle=True, seed=seed)
        wanted = min(samples, batches.samples)
        # few batches, all kept: tensors from a worker would hold an open file each
        chosen = Batches(batches.split, batches.order()[:wanted], batch_size, self._transform)
        return [inputs for inputs, _ in chosen]

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}{nearest(split, SPLITS)}")
        return split

    def _transform(self, inputs: Tensor) -> Tensor:
        return preprocess(inputs, self._preprocessing)


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
        inputs = F.interpolate(inputs, size=wanted.size, mode="bilinear", antialias=True, align_corners=False)
    if wanted.mean:
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (wanted.mean, wanted.std))
        if mean.shape[1] in (1, inputs.shape[1]):
            inputs = (inputs - mean) / std
    return inputs


def _three_splits(splits: sources.Splits) -> tuple[dict[str, sources.Split], dict[str, Tensor]]:
    """Give every split its examples; a missing val is held out from train, by a fixed permutation."""
    train, val, test = splits.train, splits.val, splits.test
    everything = torch.arange(len(train))
    if val is not None:
        return {"train": train, "val": val, "test": test}, {
            "train": everything,
            "val": torch.arange(len(val)),
            "test": torch.arange(len(test)),
        }
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_HELD_OUT_SEED))
    held_out = min(int(len(train) * _HELD_OUT_SHARE), _HELD_OUT_LARGEST)
    if held_out < 1:
        raise InputError(f"{len(train)} training examples are too few to hold a validation split out")
    indices = {
        "train": order[held_out:].sort().values,
        "val": order[:held_out].sort().values,
        "test": torch.arange(len(test)),
    }
    return {"train": train, "val": train, "test": test}, indices


def open_data(
    string: str,
    preprocessing: Preprocessing = Preprocessing(),
    args: dict[str, Any] | None = None,
    *,
    workers: int | None = None,
) -> Data:
    """Open the data that a string names, fitted to a model's preprocessing.

    Args:
        string: `digits`, `imagefolder:DIR`, `npz:FILE`, `csv:FILE`, `hf:DIR_OR_ID`, `package.module:factory`,
            `path/data.py:factory`, or `path/data.py:reader:LOCATION`. A factory returns (train, test) or
            (train, val, test), each (inputs, targets), a Dataset or a DataLoader (see `data.loaders`); a reader is as
            READERS says.
        preprocessing: what the model expects; `size=`, `mean=`, `std=` in args override it.
        args: `size=32` for any form; keyword arguments of a factory.
        workers: processes that make batches ahead; None takes those of the user's DataLoader, else none.
    Raises:
        InputError: if the string, the files or the arguments are wrong, naming the nearest valid name.
    """
    args = dict(args or {})
    prefix, _, location = string.partition(":")
    own = _OWN_READER.match(string)
    if READERS.has(prefix):
        preprocessing = _overridden(preprocessing, args, prefix)
        if READERS.builtin(prefix) and prefix != "digits" and not location:
            raise InputError(f"data {string!r}: say where it is, e.g. {prefix}:PATH")
        splits = _read(prefix, location, preprocessing)
    elif own:
        splits = _read(own[1], own[2], _overridden(preprocessing, args, own[1]))
    elif in_memory.is_in_memory(string) and not callable(in_memory.find(string)):
        if args:
            raise InputError(f"data {string!r} is an object in memory; leave data_arg out")
        splits, preprocessing = loaders.splits_of(in_memory.find(string), repr(string)), Preprocessing()
    elif location:
        splits = loaders.factory(prefix, location, args)
    else:
        raise InputError(f"unknown data {string!r}{nearest(prefix, READERS.rows())}")
    for name in SPLITS:
        split = getattr(splits, name)
        if split is not None and not len(split):
            raise InputError(f"data {string!r}: split {name} is empty")
    return Data(string, splits, preprocessing, workers=workers)


def _read(reader: str, location: str, preprocessing: Preprocessing) -> sources.Splits:
    function = READERS.load(reader)
    if READERS.builtin(reader):
        return function(location, preprocessing)
    with guarded(f"data reader {reader!r}"):
        found = function(location, preprocessing)
    return found if isinstance(found, sources.Splits) else loaders.splits_of(found, f"of reader {reader!r}")


def _overridden(preprocessing: Preprocessing, args: dict[str, Any], prefix: str) -> Preprocessing:
    known = ("size",)
    for name in args:
        if name not in known:
            raise InputError(f"data {prefix}: unknown argument {name!r}{nearest(name, known)}")
    if "size" not in args:
        return preprocessing
    try:
        side = int(args["size"])
    except (TypeError, ValueError, OverflowError):
        side = 0
    if not 1 <= side <= _LARGEST_SIDE:
        raise InputError(f"data {prefix}: size must be an integer from 1 to {_LARGEST_SIDE}, got {args['size']!r:.60}")
    return Preprocessing(preprocessing.mean, preprocessing.std, (side, side), preprocessing.channels)
