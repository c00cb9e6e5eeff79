"""The teacher's logits on disk: computed once, memory-mapped, found again by later epochs and runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.types import Inputs
from ..training.checkpoints.checkpoint import fingerprint


class LogitCache:
    """Logits by row number in a memory-mapped file, with a second file that says which rows are there.

    A row is marked only after it was written, so a run that is killed leaves a cache that the next one goes on with.

    Args:
        folder: where the files lie; several runs may share it.
        rows: how many rows there can be.
        shape: of one row's logits.
        record: what the logits depend on; another record uses other files.
        weights: tensors they depend on.
        largest: keep only so many of the largest logits of a position, and one number for all others; None keeps all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: int,
        shape: tuple[int, ...],
        record: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        largest: int | None = None,
    ):
        self._classes = shape[-1] if shape else 0
        self._largest = largest if largest and largest < self._classes - 1 else None
        if self._largest:
            shape = (*shape[:-1], 2 * self._largest + 1)
            record = {**record, "classes": self._classes}
        stem = f"logits-{fingerprint({**record, 'rows': rows, 'shape': list(shape)}, weights)}"
        folder.mkdir(parents=True, exist_ok=True)
        self._values = _mapped(folder / f"{stem}.f32", np.float32, (rows, *shape))
        self._known = _mapped(folder / f"{stem}.known", np.uint8, (rows,))
        self.computed = self.found = 0

    def __call__(self, inputs: Inputs, rows: Tensor, compute: Callable[[Inputs], Tensor]) -> Tensor:
        """Logits of a batch, from the files where they are there.

        Args:
            inputs: the batch.
            rows: its row numbers, (batch,).
            compute: inputs -> logits; called once, for those that are missing.
        Returns:
            (batch, ...), on the device of the inputs where they are a tensor.
        """
        places = rows.cpu().numpy()
        missing = np.flatnonzero(self._known[places] == 0)
        if len(missing):
            # a batch that is not one tensor is computed whole
            part = inputs[torch.from_numpy(missing)] if isinstance(inputs, Tensor) else inputs
            values = self._packed(compute(part).float()).cpu().numpy()
            self._values[places[missing]] = values if isinstance(inputs, Tensor) else values[missing]
            self._known[places[missing]] = 1
        self.computed += len(missing)
        self.found += len(places) - len(missing)
        answer = self._unpacked(torch.from_numpy(self._values[places]))
        return answer.to(inputs.device) if isinstance(inputs, Tensor) else answer

    def _packed(self, logits: Tensor) -> Tensor:
        """Logits as they are stored: (..., classes), or the largest ones, their classes, and a number for the rest."""
        return pack_largest(logits, self._largest) if self._largest else logits

    def _unpacked(self, stored: Tensor) -> Tensor:
        return unpack_largest(stored, self._classes) if self._largest else stored


def pack_largest(logits: Tensor, count: int) -> Tensor:
    """The largest logits of each position, their classes, and the logit that gives all others their probability.

    Args:
        logits: (..., classes), fewer than 2**24 classes.
        count: how many are kept, below the number of classes.
    Returns:
        (..., 2 * count + 1).
    """
    values, classes = logits.topk(count, dim=-1)
    others = logits.scatter(-1, classes, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([values, classes.to(values.dtype), others - math.log(logits.shape[-1] - count)], -1)


def unpack_largest(stored: Tensor, classes: int) -> Tensor:
    """Logits (..., classes) of what `pack_largest` gave; the probability of those not kept is shared out evenly."""
    count = stored.shape[-1] // 2
    logits = stored[..., -1:].expand(*stored.shape[:-1], classes).clone()
    return logits.scatter_(-1, stored[..., count : 2 * count].long(), stored[..., :count])


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A file as an array, made of zeros where it is new; making it twice at once does no harm."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        if size_bytes and hasattr(os, "posix_fallocate"):
            # a full disk says so here; in a file with holes it would end the process when a row is written
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        file.truncate(size_bytes)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
