"""`data: none`: a data set of inputs made from the model, for calibration where no data are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import InputError, nearest
from ...core.tensors.batches import join, pick
from ...core.types import Inputs, Loaded
from ...data.dataset import Data
from ...data.preprocessing import ImageTransform
from ...data.splits.base import Splits
from ...data.strings import MADE
from ...model.example_inputs import with_batch
from .synthetic import synthesize

_DEFAULTS = {"samples": 256, "steps": 100}
_HELD_OUT = 4  # of so many inputs one is held out
_A_LOOK = 2  # examples that tell no more than their form, for which nothing is made


def synthetic_data(
    loaded: Loaded, args: Mapping[str, Any], *, seed: int, log: Callable[[str], None] = lambda line: None
) -> Data:
    """Inputs made from a model, without labels: train, and a quarter as much that is held out, for val and test.

    Nothing is made before more than two examples are read, so that checks before work stay fast.

    Args:
        loaded: the model, with example inputs.
        args: `samples` (256) and `steps` of gradient descent on images (100).
        seed: decides all of them.
        log: told of progress.
    Raises:
        InputError: if an argument is none of these or not a positive integer, or the model has no example inputs.
    """
    given = dict(_DEFAULTS)
    for name, value in args.items():
        if name not in given:
            raise InputError(f"data none: unknown argument {name!r}{nearest(name, given)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"data none: {name} must be a positive integer, got {value!r}")
        given[name] = value
    if loaded.example is None:
        raise InputError("data none makes inputs like the model's example inputs; name their shape with --input")

    def split(samples: int, seed: int) -> _SyntheticSplit:
        return _SyntheticSplit(loaded, samples, given["steps"], seed, log)

    held_out = split(max(given["samples"] // _HELD_OUT, 1), seed + 1_000_003)
    note = f"no data: {given['samples']} inputs are made from the model, which no labels belong to"
    return Data(
        MADE, Splits(split(given["samples"], seed), held_out, held_out, note=note), ImageTransform(scales=False)
    )


class _SyntheticSplit:
    """Inputs made when they are first read."""

    draws: ClassVar[bool] = False

    def __init__(self, loaded: Loaded, samples: int, steps: int, seed: int, log: Callable[[str], None]):
        self._loaded, self._samples, self._steps, self._seed, self._log = loaded, samples, steps, seed, log
        self._made: Inputs | None = None

    def __len__(self) -> int:
        return self._samples

    def take(self, indices: Tensor) -> tuple[Inputs, None]:
        """Inputs without targets; a look at one or two examples before any were made gets the model's example."""
        if self._made is None:
            if len(indices) <= _A_LOOK < self._samples:
                return with_batch(self._loaded.example, len(indices)), None
            with torch.random.fork_rng(devices=[]):
                made = synthesize(
                    self._loaded.module, self._loaded.example, samples=self._samples, seed=self._seed,
                    steps=self._steps,
                )  # fmt: skip
            self._made = join(made.batches)
            self._log(made.note)
        return pick(self._made, indices), None
