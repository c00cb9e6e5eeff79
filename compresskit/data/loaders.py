"""Data that Python code holds (tensors, Datasets, DataLoaders, iterables of batches) as splits of examples.

A *tuple* of two arrays is one split (inputs, targets); a tuple of two or three splits, or a mapping with these keys, is
(train, test) or (train, val, test); one split alone is divided, a fifth of it held out as test by a fixed permutation.
What is given is taken as it is: nothing is normalized, resized or scaled. A batch is (inputs, targets), (input, ...,
targets), or a mapping with one of the keys in `TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate
from torch.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler, SubsetRandomSampler

from ..core.errors import InputError
from ..core.user_code.user_imports import guarded, named_attribute
from ..model.example_inputs import tensors_of
from .arrays import check_inputs, check_targets, to_tensor
from .sources import ArraySplit, Split, Splits, array_split, classes_of, divided
from .worker_processes import Workers

#: keys of a batch's targets, where a batch is a mapping
TARGETS = ("labels", "label", "targets", "target")
SPLITS = ("train", "val", "test")
_LARGEST_HELD_BYTES = 8 << 30  # batches that are read once are kept; an endless iterable ends here
_Pair = tuple[Any, Tensor]


def splits_of(found: Any, where: str) -> Splits:
    """Splits from whatever an API call or a factory gives.

    Args:
        found: see the module's own text.
        where: what errors call it.
    Raises:
        InputError: naming what cannot be read and what to give instead.
    """
    parts = _parts(found, where)
    if len(parts) == 1:
        split = _split(parts["train"], where)
        return divided(split, classes_of(split.targets) if isinstance(split, ArraySplit) else None)
    read = {name: _split(part, f"{where}, {name}") for name, part in parts.items()}
    train = read["train"]
    classes = classes_of(train.targets) if isinstance(train, ArraySplit) else None
    return Splits(train, read["test"], read.get("val"), classes)


def factory(where: str, name: str, args: dict[str, Any]) -> Splits:
    """User data: what a factory returns, (train, test) or (train, val, test).

    Raises:
        InputError: if the factory fails, or returns something else.
    """
    function = named_attribute(f"{where}:{name}")
    with guarded(f"data factory {where}:{name}"):
        parts = function(**args)
    if not isinstance(parts, tuple) or len(parts) not in (2, 3):
        raise InputError(f"data factory {where}:{name} must return (train, test) or (train, val, test)")
    if any(_is_loaded(part) for part in parts):
        return splits_of(parts, f"factory {where}:{name}")
    splits = [array_split(*_array_pair(part, f"{where}:{name}"), f"{where}:{name}") for part in parts]
    return Splits(splits[0], splits[-1], splits[1] if len(splits) == 3 else None, classes_of(splits[0].targets))


def _is_loaded(part: Any) -> bool:
    return isinstance(part, DataLoader | Dataset)


def _array_pair(part: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise InputError(
            f"data factory {where}: each split must be a pair (inputs, targets), a Dataset or a DataLoader"
        )
    return part[0], part[1]


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
    return isinstance(value, Tensor | np.ndarray)


def _split(source: Any, where: str) -> Any:
    if isinstance(source, tuple | list) and len(source) == 2 and all(map(_is_array, source)):
        return _tensors(source[0], source[1], where)
    with guarded(f"data {where}", "while it was read"):
        if isinstance(source, TensorDataset) and len(source.tensors) == 2:
            inputs, targets = source.tensors
            return _tensors(inputs, targets, where)
        if isinstance(source, DataLoader):
            return _of_loader(source, where)
        if isinstance(source, IterableDataset):
            return HeldSplit.read(DataLoader(source, batch_size=64), where)
        if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, list | Mapping):
            return _checked(DatasetSplit(source, range(len(source)), default_collate, where), where)
        if isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping | Tensor):
            return HeldSplit.read(source, where)
    raise InputError(
        f"data {where} is of type {type(source).__name__}; give a data string, a DataLoader, a Dataset, a pair of "
        "tensors (inputs, targets) or an iterable of batches"
    )


def _of_loader(loader: DataLoader, where: str) -> Any:
    """A loader's examples: by index where it draws each once, else its batches as they come."""
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, IterableDataset) or type(loader.batch_sampler) is not BatchSampler:
        return HeldSplit.read(loader, where)
    if type(sampler) is SubsetRandomSampler:
        indices: Sequence[int] = [int(index) for index in sampler.indices]
    elif type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement):
        indices = range(len(dataset))  # type: ignore[arg-type]
    else:  # weighted, distributed or of the user's own: what it draws is what is meant
        return HeldSplit.read(loader, where)
    workers = Workers(
        loader.num_workers,
        loader.prefetch_factor,
        loader.timeout,
        loader.worker_init_fn,
        loader.multiprocessing_context,
        dataset,
    )
    return _checked(DatasetSplit(dataset, indices, loader.collate_fn, where, workers), where)


@dataclass
class DatasetSplit:
    """Examples of a map-style Dataset, collated as they are taken.

    Attributes:
        dataset: indexed by integers.
        indices: which of its examples, in order.
        collate: a list of examples -> a batch.
        where: what errors call it.
        workers: the processes of the DataLoader that it came with.
    """

    dataset: Any
    indices: Sequence[int]
    collate: Callable[[list[Any]], Any]
    where: str
    workers: Workers = Workers()
    as_given: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> _Pair:
        """(inputs, targets) of some examples."""
        with guarded(f"data {self.where}", "while examples were read"):
            batch = self.collate([self.dataset[self.indices[index]] for index in indices.tolist()])
        return pair_of(batch, self.where)

    def subset(self, indices: Tensor) -> DatasetSplit:
        """The same data set with fewer examples."""
        return replace(self, indices=[self.indices[index] for index in indices.tolist()])


@dataclass
class HeldSplit:
    """Batches that were read once, example by example in memory.

    Attributes:
        examples: (inputs, targets) of one example each, with their batch dimension.
    """

    examples: list[_Pair]
    as_given: bool = True
    draws: ClassVar[bool] = False

    @classmethod
    def read(cls, batches: Iterable[Any], where: str) -> Any:
        """Read batches to their end; tensors of one shape become one array.

        Raises:
            InputError: if there are none, or more than fit into memory.
        """
        pairs, size_bytes = [], 0
        for batch in batches:
            pairs.append(pair_of(batch, where))
            size_bytes += sum(tensor.nbytes for tensor in tensors_of(pairs[-1]))
            if size_bytes > _LARGEST_HELD_BYTES:
                raise InputError(
                    f"data {where}: its batches are read once and kept, and there are more than "
                    f"{_LARGEST_HELD_BYTES >> 30} GB of them; give a Dataset, whose examples are read when needed"
                )
        if not pairs:
            raise InputError(f"data {where} gives no batches; an iterator that was read before is empty")
        inputs = [pair[0] for pair in pairs]
        if all(isinstance(one, Tensor) for one in inputs) and len({one.shape[1:] for one in inputs}) == 1:
            targets = [pair[1] for pair in pairs]
            if len({one.shape[1:] for one in targets}) == 1:
                return _tensors(torch.cat(inputs), torch.cat(targets), where)
        return cls([example for pair in pairs for example in _examples(pair)])

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, indices: Tensor) -> _Pair:
        """(inputs, targets) of some examples."""
        chosen = [self.examples[index] for index in indices.tolist()]
        return _joined([one for one, _ in chosen]), torch.cat([targets for _, targets in chosen])

    def subset(self, indices: Tensor) -> HeldSplit:
        """Fewer of the examples."""
        return HeldSplit([self.examples[index] for index in indices.tolist()])


def _checked(split: DatasetSplit, where: str) -> Split:
    if not len(split):
        raise InputError(f"data {where} is empty")
    split.take(torch.tensor([0]))
    return split


def pair_of(batch: Any, where: str) -> _Pair:
    """(inputs, targets) of a batch, float64 inputs as float32.

    Raises:
        InputError: if it is no batch of inputs and targets.
    """
    inputs, targets = _divided_batch(batch, where)
    if isinstance(targets, np.ndarray):
        targets = torch.from_numpy(targets)
    if not isinstance(targets, Tensor) or targets.dim() == 0:
        kind = f"of type {type(targets).__name__}" if not isinstance(targets, Tensor) else "a single number"
        raise InputError(f"data {where}: the targets of a batch are {kind}; give a tensor with one entry an example")
    return _prepared(inputs), targets if targets.is_floating_point() else targets.long()


def _divided_batch(batch: Any, where: str) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        key = next((name for name in TARGETS if name in batch), None)
        if key is not None and len(batch) > 1:
            inputs = {name: value for name, value in batch.items() if name != key}
            # a lone input is passed by position: forward need not call it as the data does
            return next(iter(inputs.values())) if len(inputs) == 1 else inputs, batch[key]
        raise InputError(
            f"data {where}: a batch with keys {', '.join(map(str, batch))} needs inputs and one of {', '.join(TARGETS)}"
        )
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return tuple(batch[:-1]), batch[-1]
    raise InputError(f"data {where}: a batch must be (inputs, targets), got {type(batch).__name__}")


def _prepared(inputs: Any) -> Any:
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(inputs)
    if isinstance(inputs, Tensor):
        return inputs.float() if inputs.dtype == torch.float64 else inputs
    if isinstance(inputs, Mapping):
        return {name: _prepared(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_prepared(value) for value in inputs)
    return inputs


def _examples(pair: _Pair) -> Iterator[_Pair]:
    inputs, targets = pair
    for number in range(len(targets)):
        yield _picked(inputs, number), targets[number : number + 1]


def _picked(inputs: Any, number: int) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _picked(value, number) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_picked(value, number) for value in inputs)
    return inputs[number : number + 1]


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(values)) for values in zip(*parts, strict=True))
    return torch.cat(parts)
