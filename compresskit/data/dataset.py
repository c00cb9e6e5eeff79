"""Data strings: from `digits` or `imagefolder:DIR` to batches that a model takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, nearest
from ..core.types import Inputs, Preprocessing
from ..core.user_code import in_memory
from ..core.user_code.user_imports import guarded, named_attribute
from ..model.example_inputs import example_of
from ..model.text_inputs import TextInputs
from . import loaders
from .arrays import classes_in_floats
from .augmentation.transforms import Augmentation, Composed
from .batches import Batches, StreamBatches
from .collate import Function, as_list, make_collate
from .preprocessing import Asked, ImageTransform, refuse_unknown, take_arguments
from .sources.folders import joined_notes
from .splits.arrays import ArraySplit
from .splits.base import Split, Splits, few_note
from .splits.examples import DatasetSplit
from .splits.stream import EveryNth, StreamSplit
from .strings import OWN_READER, check_named
from .tables import READERS
from .worker_processes import Workers

SPLITS = ("train", "val", "test")
_HELD_OUT_SHARE = 0.1
_HELD_OUT_LARGEST = 5000
_HELD_OUT_SEED = 20180908  # fixed: the held-out images must not change with a run's seed


class Data:
    """An opened data set: three splits, fitted to one model's preprocessing.

    Args:
        name: the data string.
        splits: what a reader returned.
        preprocessing: what is applied to images; a model's Preprocessing stands for all that it says.
        workers: processes that make batches ahead; None takes those of the user's DataLoader, else none.

    Attributes:
        name: the data string.
        num_classes: number of classes, or None where targets are not classes.
        classes: their names, where the files have them.
        input_shape: shape of one input as the model gets it; None where an input is not one tensor.
        example: inputs of one example, of the data's own dtypes; for models that name none.
        note: how missing splits were made, for reports; empty when all were there.
        task: what the examples are for, where their reader knows it.
        applied: what is applied to images, as one line; empty where inputs are no images.
        workers: processes that make batches ahead; None takes those of the user's DataLoader, else none.
    """

    def __init__(
        self, name: str, splits: Splits, preprocessing: Preprocessing | ImageTransform, *, workers: int | None = None
    ):
        self.name = name
        self.workers = workers
        self.num_classes, self.classes = splits.num_classes, splits.classes
        self.note, self.task = splits.note, splits.task
        if isinstance(preprocessing, Preprocessing):
            preprocessing = ImageTransform(preprocessing, scales=not getattr(splits.train, "as_given", False))
        self.transform = preprocessing
        self._named = ""
        self._targets_as: Callable[[Any], Any] | None = None
        self._splits, self._indices, few = _three_splits(splits)
        self.note = joined_notes(self.note, few)
        raw, targets = next(
            iter(replace(self.batches("test", batch_size=1), transform=ImageTransform(scales=False))), (None, None)
        )
        if raw is None:
            raise InputError(f"data {name!r}: split test is empty")
        first, _ = self.transform.pair(raw, targets)
        self.input_shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else None
        self.example = example_of(first)
        self.applied = self.transform.described(raw)

    def notes(self) -> list[str]:
        """What a reader of a report must know: how splits were made, and what is applied to images."""
        return [line for line in (self.note, self.applied) if line]

    def size(self, split: str, at_most: int | None = None) -> int:
        """Number of examples in a split, at most `at_most`; a stream that does not say it is read to count them."""
        source = self._splits[self._check(split)]
        if isinstance(source, StreamSplit):
            return source.count(at_most)
        return min(len(self._indices[split]), at_most or len(self._indices[split]))

    def known_size(self, split: str) -> int | None:
        """Number of examples in a split; None for a stream that would have to be read to count them."""
        source = self._splits[self._check(split)]
        if isinstance(source, StreamSplit) and source.size is None:
            return None
        return self.size(split)

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        limit: int | None = None,
        augment: Composed | Augmentation | None = None,
    ) -> Batches | StreamBatches:
        """Batches of (inputs, targets), both of the structures that `core.tensors.batches` tells of.

        Args:
            split: train, val (held out from train) or test.
            batch_size: examples a batch.
            shuffle: another order each epoch, decided by the seed; a stream is shuffled within a window.
            seed: decides order and augmentation.
            limit: use only this many examples, the same ones for every seed: spread over the split, or the first ones
                of a stream.
            augment: changes inputs in [0, 1] before normalization.
        """
        source = self._splits[self._check(split)]
        if augment is not None and not isinstance(augment, Composed):
            augment = Composed({"of one's own": augment})
        workers = getattr(source, "workers", Workers())
        if self.workers is not None:
            workers = replace(workers, count=self.workers)
        options: dict[str, Any] = {"shuffle": shuffle, "seed": seed, "augment": augment, "workers": workers}
        options |= {"batch_size": batch_size, "transform": self.transform, "targets_as": self._targets_as}
        options["named"] = self._named
        if isinstance(source, StreamSplit):
            return StreamBatches(source, limit=limit, **options)
        indices = self._indices[split]
        if limit is not None and limit < len(indices):
            generator = torch.Generator().manual_seed(_HELD_OUT_SEED)
            indices = indices[torch.randperm(len(indices), generator=generator)[:limit].sort().values]
        return Batches(source, indices=indices, **options)

    def input_name(self) -> str:
        """What the data calls its only input, which is handed on without its name; "" where there is no name."""
        return getattr(self._splits["train"], "input_name", str)()

    def name_input(self, name: str) -> None:
        """Hand inputs on as a mapping of that one key, for a forward that reads them from there."""
        self._named, self.example = name, {name: self.example}

    def read_classes(self, *, required: bool) -> None:
        """Read whole numbers in floats as the classes that they stand for; nothing does so unless it is asked for.

        Args:
            required: whether any other float is refused, when a batch holds it; else such a batch stays what it is.
        """
        self._targets_as = partial(classes_in_floats, where=f"data {self.name!r}", required=required)

    def corpora(self) -> Iterator[np.ndarray]:
        """All tokens of the texts behind the splits, also of those that no example holds; none of other data."""
        seen: set[int] = set()
        for split in self._splits.values():
            ids = getattr(getattr(split, "stream", split), "ids", None)
            if isinstance(ids, np.ndarray) and id(ids) not in seen:
                seen.add(id(ids))
                yield ids

    def calibration(self, samples: int, *, batch_size: int = 64, seed: int = 0) -> list[Inputs]:
        """Inputs of `samples` training examples in batches, unaugmented, the same for the same seed."""
        batches = self.batches("train", batch_size=batch_size, shuffle=True, seed=seed)
        return [inputs for inputs, _ in batches.first(samples)]

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}{nearest(split, SPLITS)}")
        return split


def _three_splits(splits: Splits) -> tuple[dict[str, Split | StreamSplit], dict[str, Tensor], str]:
    """Give every split its examples, and say where a handful serves twice.

    A missing val is held out from train, by a fixed permutation.
    """
    train, val, test = splits.train, splits.val, splits.test
    indices = {
        name: torch.arange(len(split))
        for name, split in (("train", train), ("val", val), ("test", test))
        if split is not None and not isinstance(split, StreamSplit)
    }
    if val is not None:
        return {"train": train, "val": val, "test": test}, indices, ""
    if isinstance(train, StreamSplit):
        every = round(1 / _HELD_OUT_SHARE)
        val, train = (train.part(EveryNth(every, chosen, _HELD_OUT_LARGEST)) for chosen in (True, False))
        return {"train": train, "val": val, "test": test}, indices, ""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_HELD_OUT_SEED))
    held_out = min(int(len(train) * _HELD_OUT_SHARE), _HELD_OUT_LARGEST)
    chosen = {"train": order[held_out:].sort().values, "val": order[:held_out].sort().values} if held_out else {}
    note = "" if held_out else few_note(len(train), "train and val")
    indices |= {"val": indices["train"]} | chosen
    return {"train": train, "val": train, "test": test}, indices, note


def open_data(
    string: str,
    preprocessing: Preprocessing = Preprocessing(),
    args: dict[str, Any] | None = None,
    *,
    workers: int | None = None,
    collate: str = "auto",
    text_inputs: TextInputs | None = None,
) -> Data:
    """Open the data that a string names, fitted to a model's preprocessing.

    Args:
        string: a row of READERS with its location (`digits`, `imagefolder:DIR`, `npz:FILE` ...),
            `package.module:factory`, `path/data.py:factory`, or `path/data.py:reader:LOCATION`. A factory returns
            (train, test) or (train, val, test), each (inputs, targets), a Dataset or a DataLoader (see `data.loaders`);
            a reader is as READERS says.
        preprocessing: what the model expects of images. It applies to images in files and to arrays of bytes; values
            that a factory or an array file gives as floats are taken as they are.
        args: for every form `size`, `channels`, `mean` and `std`, `order` (rgb or bgr) and `preprocess` (model or none)
            for what is applied to images; the others are arguments of the reader or factory. What it names itself is
            its own.
        workers: processes that make batches ahead; None takes those of the user's DataLoader, else none.
        collate: a row of COLLATES or the user's own function, for data that gives single examples.
        text_inputs: what the model expects of text, where it takes text.
    Raises:
        InputError: if the string, the files or the arguments are wrong, naming the nearest valid name.
    """
    args = dict(args or {})
    function = make_collate(collate)
    given = {"collate": function, "text_inputs": text_inputs}
    prefix, _, location = string.partition(":")
    own = OWN_READER.match(string)
    check_named(string)
    if READERS.has(prefix):
        asked, splits = _read(prefix, location, preprocessing, args, given)
        as_given = READERS.builtin(prefix) and "values" in READERS[prefix].attributes
        transform = asked.applied(preprocessing, by_default=not as_given or _has_bytes(splits))
    elif own:
        asked, splits = _read(own[1], own[2], preprocessing, args, given)
        transform = asked.applied(preprocessing, by_default=True)
    elif in_memory.is_in_memory(string) and not callable(in_memory.find(string)):
        asked, rest = take_arguments(args, repr(string))
        if rest:
            raise InputError(f"data {string!r} is an object in memory; leave data_arg {next(iter(rest))!r} out")
        splits = loaders.splits_of(in_memory.find(string), repr(string), function)
        transform = asked.applied(preprocessing, by_default=False)
    else:
        asked, splits = _made(prefix, location, args, function)
        transform = asked.applied(preprocessing, by_default=_has_bytes(splits))
    for name in SPLITS:
        split = getattr(splits, name)
        if split is not None and not isinstance(split, StreamSplit) and not len(split):
            raise InputError(f"data {string!r}: split {name} is empty")
    _check_collate(collate, splits, string)
    transform = replace(transform, stacks=function is None and _is_listed(splits.train))
    return Data(string, splits, transform, workers=workers)


def _read(
    reader: str, location: str, preprocessing: Preprocessing, args: dict[str, Any], given: dict[str, Any]
) -> tuple[Asked, Splits]:
    """What is asked of images, and what a row of READERS read; `given` goes to those of ours that take it."""
    function = READERS.load(reader)
    builtin = READERS.builtin(reader)
    known = [name for name in _parameters(function)[2:] if not (builtin and name in given)]
    asked, rest = take_arguments(args, reader, known)
    refuse_unknown({name: rest[name] for name in rest if name not in known}, known, reader)
    wanted = asked.wanted(preprocessing)
    if builtin:
        taken = {name: value for name, value in given.items() if name in _parameters(function)}
        return asked, function(location, wanted, **rest, **taken)
    with guarded(f"data reader {reader!r}"):
        found = function(location, wanted, **rest)
    return asked, found if isinstance(found, Splits) else loaders.splits_of(
        found, f"of reader {reader!r}", given["collate"]
    )


def _made(where: str, name: str, args: dict[str, Any], collate: Function | None) -> tuple[Asked, Splits]:
    """What is asked of images, and what a factory returned."""
    function = named_attribute(f"{where}:{name}")
    asked, rest = take_arguments(args, f"factory {where}:{name}", _parameters(function))
    return asked, loaders.factory(function, f"{where}:{name}", rest, collate)


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _has_bytes(splits: Splits) -> bool:
    """Whether the data's arrays are images in bytes, which stand for numbers in [0, 1]."""
    train = splits.train
    if not isinstance(train, ArraySplit) or train.as_given:
        return False
    return train.inputs.dtype == torch.uint8 and train.inputs.dim() == 4


def _is_listed(split: Any) -> bool:
    """Whether examples stay a list because they differ in shape or have boxes, and not because a user said so."""
    return getattr(getattr(split, "collate", None), "function", None) is as_list


def _check_collate(name: str, splits: Splits, string: str) -> None:
    if name == "auto" or any(isinstance(split, DatasetSplit | StreamSplit) for split in (splits.train, splits.test)):
        return
    raise InputError(
        f"data {string!r} comes as whole arrays or batches, and collate {name!r} would be ignored; leave it out"
    )
