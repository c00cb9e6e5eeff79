"""Examples behind code of the user: a map-style Dataset, or batches that can be read only once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.tensors.batches import divided, join, tensors_of
from ...core.user_code.user_imports import guarded
from ..collate import Collate, Pair, input_name, pair_of
from ..worker_processes import Workers

LARGEST_HELD_BYTES = 8 << 30  # batches that can be read only once are kept; an endless iterator ends here


@dataclass
class DatasetSplit:
    """Examples of a map-style Dataset, collated as they are taken.

    Attributes:
        dataset: indexed by integers, or by whatever the sampler of its loader drew.
        indices: which of its examples, in order.
        collate: a list of examples -> (inputs, targets).
        where: what errors call it.
        workers: the processes of the DataLoader that it came with.
    """

    dataset: Any
    indices: Sequence[Any]
    collate: Collate
    where: str
    workers: Workers = Workers()

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> Pair:
        """(inputs, targets) of some examples."""
        with guarded(f"data {self.where}", "while examples were read"):
            return self.collate([self.dataset[self.indices[index]] for index in indices.tolist()])

    def input_name(self) -> str:
        """What the data calls its only input; "" where it has several, or no names."""
        return self.collate.input_name

    def subset(self, indices: Tensor) -> DatasetSplit:
        """The same data set with fewer examples."""
        return replace(self, indices=[self.indices[index] for index in indices.tolist()])


@dataclass
class HeldSplit:
    """Batches that were read once, example by example in memory.

    Attributes:
        examples: (inputs, targets) of one example each, as batches of one.
        where: what errors call it.
        only: what the data calls its only input; "" where it has several, or no names.
    """

    examples: list[Pair]
    where: str = ""
    only: str = ""
    draws: ClassVar[bool] = False

    @classmethod
    def read(cls, batches: Iterable[Any], where: str) -> HeldSplit:
        """Read batches to their end.

        Raises:
            InputError: if there are none, or more than fit into memory.
        """
        examples: list[Pair] = []
        size_bytes, only = 0, ""
        for batch in batches:
            pair, only = pair_of(batch, where), input_name(batch)
            examples += examples_of(pair, where)
            size_bytes += sum(tensor.nbytes for tensor in tensors_of(pair))
            if size_bytes > LARGEST_HELD_BYTES:
                raise InputError(
                    f"data {where}: its batches are read once and kept, and there are more than "
                    f"{LARGEST_HELD_BYTES >> 30} GB of them; give a Dataset, whose examples are read when needed"
                )
        if not examples:
            raise InputError(f"data {where} gives no batches; an iterator that was read before is empty")
        return cls(examples, where, only)

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, indices: Tensor) -> Pair:
        """(inputs, targets) of some examples."""
        return joined([self.examples[index] for index in indices.tolist()], self.where)

    def input_name(self) -> str:
        """What the data calls its only input; "" where it has several, or no names."""
        return self.only

    def subset(self, indices: Tensor) -> HeldSplit:
        """Fewer of the examples."""
        return replace(self, examples=[self.examples[index] for index in indices.tolist()])


def examples_of(pair: Pair, where: str) -> Iterator[Pair]:
    """Each example of a batch as a batch of one.

    Raises:
        InputError: if there are not as many inputs as targets.
    """
    inputs = divided(pair[0])
    targets = [None] * len(inputs) if pair[1] is None else divided(pair[1])
    if len(inputs) != len(targets):
        raise InputError(f"data {where}: a batch has {len(inputs)} inputs but {len(targets)} targets")
    return zip(inputs, targets, strict=True)


def joined(pairs: Sequence[Pair], where: str) -> Pair:
    """One batch of several.

    Raises:
        InputError: if their tensors do not fit together.
    """
    try:
        # join gives back None where there are no targets
        inputs, targets = join([inputs for inputs, _ in pairs]), join([targets for _, targets in pairs])
    except (RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"data {where}: its batches differ in shape and cannot be divided into batches of another size; give a "
            "Dataset of single examples, and a collate function that pads them, e.g. --collate pad"
        ) from error
    return inputs, targets


def first_of(dataset: Any, indices: Sequence[Any]) -> list[Any]:
    """Up to two examples, from which a collate function is chosen."""
    return [dataset[indices[number]] for number in range(min(len(indices), 2))]


def held(batches: Iterable[Any], where: str) -> HeldSplit | tuple[Tensor, Tensor, str]:
    """Batches that are read once: as two tensors and the name of the inputs where they are that, else by example."""
    split = HeldSplit.read(batches, where)
    inputs, targets = zip(*split.examples, strict=True)
    alike = [
        all(isinstance(one, Tensor) for one in side) and len({(one.shape[1:], one.dtype) for one in side}) == 1
        for side in (inputs, targets)
    ]
    return (torch.cat(inputs), torch.cat(targets), split.only) if all(alike) else split
