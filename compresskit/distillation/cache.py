"""The teacher's logits on disk: computed once, memory-mapped, found again by later epochs and runs."""

from __future__ import annotations

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
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: int,
        shape: tuple[int, ...],
        record: Mapping[str, Any],
        weights: Mapping[str, Tensor],
    ):
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
            values = compute(part).float().cpu().numpy()
            self._values[places[missing]] = values if isinstance(inputs, Tensor) else values[missing]
            self._known[places[missing]] = 1
        self.computed += len(missing)
        self.found += len(places) - len(missing)
        answer = torch.from_numpy(self._values[places])
        return answer.to(inputs.device) if isinstance(inputs, Tensor) else answer


def _mapped(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A file as an array, made of zeros where it is new; making it twice at once does no harm."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with open(path, "ab") as file:
        if size_bytes and hasattr(os, "posix_fallocate"):
            # a full disk says so here; in a file with holes it would end the process when a row is written
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        file.truncate(size_bytes)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
