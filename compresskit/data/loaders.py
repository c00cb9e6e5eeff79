"""Data that Python code holds (tensors, Datasets, DataLoaders, iterables of batches) as splits of examples.

A *tuple* of two arrays is one split (inputs, targets); a tuple of two or three splits, or a mapping with these keys, is
(train, test) or (train, val, test); one split alone is divided, a fifth of it held out as test by a fixed permutation
(every fifth example of a stream). What is given is taken as it is: nothing is normalized, resized or scaled. A batch is
(inputs, targets), (input, ..., targets), a mapping, whose targets have one of the keys in `TARGETS`, or inputs alone;
inputs and targets have any structure. What can be read only once is kept in memory, everything else is read when it is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

from ..core.errors import InputError
from ..core.tensors.batches import count_examples, tensors_of
from ..core.tensors.randomness import same_draws
from ..core.user_code.user_imports import guarded
from .arrays import check_inputs, check_targets, to_tensor
from .collate import Collate, Function, pair_of
from .splits.arrays import ArraySplit
from .splits.base import Splits, classes_of, divided
from .splits.columns import ColumnSplit
from .splits.examples import DatasetSplit, HeldSplit, first_of, held
from .splits.stream import EveryNth, StreamSplit, of_batches, of_iterable, workers_of
from .worker_processes import Workers

SPLITS = ("train", "val", "test")
_MOST_DRAWN = 50_000_000  # indices that a sampler may draw in one pass
_TEST_EVERY = 5


def splits_of(found: Any, where: str, collate: Function | None = None) -> Splits:
    """Splits from whatever an API call or a factory gives.

    Args:
        found: see the module's own text.
        where: what errors call it.
        collate: a list of examples -> a batch, of single examples; None takes a loader's own, else what fits.
    Raises:
        InputError: naming what cannot be read and what to give instead.
    """
    parts = _parts(found, where)
    if len(parts) == 1:
        split = _split(parts["train"], where, collate)
        if isinstance(split, StreamSplit):
            test, train = (split.part(EveryNth(_TEST_EVERY, chosen)) for chosen in (True, False))
            return Splits(train, test, note="no test split was there; every fifth example is held out")
        return divided(split, _classes(split))
    read = {name: _split(part, f"{where}, {name}", collate) for name, part in parts.items()}
    return Splits(read["train"], read["test"], read.get("val"), _classes(read["train"]))


def _classes(split: Any) -> int | None:
    targets = getattr(split, "targets", None)
    return classes_of(targets) if isinstance(targets, Tensor) else None


def factory(function: Any, where: str, args: dict[str, Any], collate: Function | None = None) -> Splits:
    """User data: what a factory returns, (train, test) or (train, val, test), or a mapping with these keys.

    Tensors of images in whole numbers from 0 to 255 are images; all else is what the model takes already.

    Raises:
        InputError: if the factory fails, or returns something else.
    """
    with guarded(f"data factory {where}"):
        parts = function(**args)
    fits = isinstance(parts, tuple) and len(parts) in (2, 3)
    if fits and all(map(_is_array, parts)):
        raise InputError(
            f"data factory {where} returned {len(parts)} arrays, which may be splits or inputs and targets; return "
            "{'train': ..., 'test': ...}, each (inputs, targets) or inputs alone"
        )
    if not (fits or (isinstance(parts, Mapping) and set(parts) <= set(SPLITS))):
        raise InputError(f"data factory {where} must return (train, test) or (train, val, test)")
    splits = splits_of(parts, f"factory {where}", collate)
    for split in (splits.train, splits.val, splits.test):
        if isinstance(split, ArraySplit):
            split.as_given = False
    return splits


def _tensors(inputs: Any, targets: Any, where: str) -> ArraySplit:
    """A pair of arrays as it is; float64 inputs become float32."""
    inputs, targets = to_tensor(inputs, f"data {where}: inputs"), to_tensor(targets, f"data {where}: targets")
    if len(inputs) != len(targets):
        raise InputError(f"data {where}: {len(inputs)} inputs but {len(targets)} targets")
    inputs, targets = pair_of((inputs, targets), where)
    check_inputs(inputs, where)
    check_targets(targets, where)
    return ArraySplit(inputs, targets, as_given=True)


def _parts(found: Any, where: str) -> dict[str, Any]:
    if isinstance(found, Mapping) and found and set(found) <= set(SPLITS):
        parts = {name: found[name] for name in SPLITS if found.get(name) is not None}
        if "train" not in parts:
            raise InputError(f"data {where}: there is no train among {', '.join(found)}")
        if "test" not in parts and "val" in parts:
            parts["test"] = parts.pop("val")
        return parts
    if not isinstance(found, tuple) or (len(found) == 2 and all(map(_is_array, found))):
        return {"train": found}
    if len(found) not in (2, 3):
        raise InputError(
            f"data {where}: a tuple is (inputs, targets), (train, test) or (train, val, test), not {len(found)} parts"
        )
    names = SPLITS if len(found) == 3 else ("train", "test")
    return dict(zip(names, found, strict=True))


def _is_array(value: Any) -> bool:
    """A tensor, an array, or nested lists of numbers."""
    if isinstance(value, list):
        return bool(value) and (
            isinstance(value[0], bool | int | float) or (type(value[0]) is list and _is_array(value[0]))
        )
    return isinstance(value, Tensor | np.ndarray)


def _is_columns(value: Any) -> bool:
    """Arrays that hold all examples of a split, in any structure."""
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_columns, value.values()))
    return _is_array(value) or (isinstance(value, tuple | list) and bool(value) and all(map(_is_columns, value)))


def _columns(inputs: Any, targets: Any, where: str) -> ColumnSplit:
    inputs, targets = pair_of((inputs, targets), where, (False, False))
    counts = (count_examples(inputs), count_examples(targets))
    if targets is not None and counts[0] != counts[1]:
        raise InputError(f"data {where}: {counts[0]} inputs but {counts[1]} targets")
    for tensor in tensors_of(inputs):
        check_inputs(tensor, where)
    return ColumnSplit(inputs, targets, where)


def _split(source: Any, where: str, collate: Function | None) -> Any:
    if isinstance(source, Tensor | np.ndarray):
        return _columns(source, None, where)
    if isinstance(source, tuple | list) and len(source) == 2 and all(map(_is_array, source)):
        return _tensors(source[0], source[1], where)
    if isinstance(source, tuple) and len(source) == 2 and all(map(_is_columns, source)):
        return _columns(source[0], source[1], where)
    with guarded(f"data {where}", "while it was read"):
        if isinstance(source, TensorDataset) and len(source.tensors) == 2 and collate is None:
            inputs, targets = source.tensors
            return _tensors(inputs, targets, where)
        if isinstance(source, DataLoader):
            return _of_loader(source, where, collate)
        if isinstance(source, IterableDataset):
            return of_iterable(source, where, collate)
        if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list | Mapping):
            return dataset_split(source, range(len(source)), where, collate)
        if isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping | Tensor):
            return _of_batches(source, where)
    raise InputError(
        f"data {where} is of type {type(source).__name__}; give a data string, a DataLoader, a Dataset, a pair of "
        "tensors (inputs, targets), inputs alone or an iterable of batches"
    )


def _of_batches(source: Iterable[Any], where: str) -> Any:
    """An iterable of batches: read anew in each pass, and kept where that cannot be done."""
    if isinstance(source, list | Iterator):
        found = held(source, where)
        if isinstance(found, HeldSplit):
            return found
        inputs, targets, only = found
        return replace(_tensors(inputs, targets, where), only=only)
    return of_batches(lambda epoch, processes: source, where)


def _of_loader(loader: DataLoader[Any], where: str, collate: Function | None) -> Any:
    """A loader's examples: by index where its dataset has them, else as a stream."""
    if isinstance(loader.dataset, IterableDataset):
        return of_iterable(loader.dataset, where, collate, loader)
    if loader.batch_size is None and loader.batch_sampler is None:  # each item is a batch of the dataset's own
        return of_batches(lambda epoch, processes: loader, where, workers_of(loader), True)
    dataset: Any = loader.dataset
    return dataset_split(dataset, _drawn(loader, where), where, collate or loader.collate_fn, workers_of(loader))


def _drawn(loader: DataLoader[Any], where: str) -> Sequence[Any]:
    """The indices that a loader takes: those of the whole dataset in order, else what its sampler draws once."""
    sampler, dataset = loader.sampler, loader.dataset
    if type(loader.batch_sampler) is BatchSampler:
        if type(sampler) is SubsetRandomSampler:
            return [int(index) for index in sampler.indices]
        once = type(sampler) is RandomSampler and not sampler.replacement
        if once or type(sampler) in (SequentialSampler, DistributedSampler):  # batches are shared out later
            return range(len(dataset))  # type: ignore[arg-type]
    with same_draws():
        batches: Iterable[Any] = loader.batch_sampler or ()
        drawn = list(islice((index for batch in batches for index in batch), _MOST_DRAWN + 1))
    if len(drawn) > _MOST_DRAWN:
        raise InputError(f"data {where}: its sampler draws without end; give one that ends with an epoch")
    return drawn


def dataset_split(
    dataset: Any,
    indices: Sequence[Any],
    where: str,
    collate: Function | None = None,
    workers: Workers = Workers(),
) -> DatasetSplit:
    """Examples of a map-style Dataset, the first of them read to see what they are.

    Raises:
        InputError: if there are none, or they are no pairs of inputs and targets.
    """
    if not len(indices):
        raise InputError(f"data {where} is empty")
    with same_draws():
        fitting = Collate.fitting(collate, first_of(dataset, indices), where)
    split = DatasetSplit(dataset, indices, fitting, where, workers)
    split.take(torch.tensor([0]))
    return split
