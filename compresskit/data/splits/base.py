"""What a reader returns: splits of examples, taken by index or read as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ...core.errors import InputError

if TYPE_CHECKING:
    from .stream import StreamSplit

_TEST_SHARE = 0.2
_SPLIT_SEED = 20180908
_FEWEST_TO_DIVIDE = 10  # below that a tenth, which val is, holds no example


class Split(Protocol):
    """Examples taken by index: `take(indices) -> (inputs, targets)`; uint8 inputs are images in [0, 255].

    Inputs and targets are batches of any structure, as `core.tensors.batches` has it: tensors, mappings and tuples of
    them (forward gets a tuple by position, a mapping by name), a list where each example has an entry of its own.

    A split whose `draws` is False draws no random numbers; any other is read under a seed of the batch's own. `workers`
    (a `Workers`) are the processes that read it where the options do not say how many.
    """

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> tuple[Any, Any]: ...


@dataclass
class Splits:
    """What a reader returns; a missing val is held out from train later.

    Attributes:
        num_classes: number of classes, or None where targets are not classes.
        note: how missing splits were made, and what was left out; for reports.
        classes: names of the classes, where the files have them.
        task: what the examples are for, of evaluation.tables.TASKS, where the reader knows it; None leaves it to a
            batch.
    """

    train: Split | StreamSplit
    test: Split | StreamSplit
    val: Split | StreamSplit | None = None
    num_classes: int | None = None
    note: str = ""
    classes: tuple[str, ...] = ()
    task: str | None = None


def divided(split: Any, num_classes: int | None, classes: tuple[str, ...] = ()) -> Splits:
    """A fifth of a split held out as test, by a fixed permutation; a handful, for calibration alone, is not divided.

    Raises:
        InputError: if there are no examples.
    """
    if not len(split):
        raise InputError("the data is empty")
    if len(split) < _FEWEST_TO_DIVIDE:
        return Splits(split, split, split, num_classes, few_note(len(split), "train, val and test"), classes)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    cut = max(int(len(split) * _TEST_SHARE), 1)
    note = f"no test split was there; {cut} examples were held out by a fixed permutation"
    return Splits(split.subset(order[cut:]), split.subset(order[:cut]), None, num_classes, note, classes)


def few_note(count: int, serves: str) -> str:
    """What a report says of examples that are too few to hold some out."""
    examples = f"{count} examples, too few to hold any out, are" if count > 1 else "the one example is"
    return f"{examples} {serves}: no figure of them holds for others"


def classes_of(targets: Tensor) -> int | None:
    """Number of classes, or None where targets are not classes."""
    whole = not targets.is_floating_point() and targets.dim() == 1 and len(targets)
    return int(targets.max()) + 1 if whole else None
