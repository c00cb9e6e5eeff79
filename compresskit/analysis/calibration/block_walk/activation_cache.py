"""Activations that wait for their turn: in memory up to a limit, beyond it on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from ....core.tensors.dispatch import without_vmap

#: smaller tensors stay in memory: their files would cost more than they save
_SMALLEST_BYTES = 1 << 14
_CHUNK_BYTES = 1 << 24


_limit_bytes: ContextVar[int | None] = ContextVar("activation_memory", default=None)


@contextmanager
def activation_memory(limit_bytes: int | None) -> Iterator[None]:
    """Caches that are made inside hold so many bytes in memory, whatever their makers ask for; None changes nothing."""
    token = _limit_bytes.set(limit_bytes)
    try:
        yield
    finally:
        _limit_bytes.reset(token)


class ActivationCache:
    """Memory of activations that is emptied into files where there is too much of it, and filled again for use.

    What is emptied are the storages themselves, so every reference to a tensor, that of a suspended forward pass
    included, holds no memory either until the tensor is used again. The cache itself keeps none of them alive.

    Args:
        limit_bytes: activations kept in memory; None for no limit.
        folder: where files go; None for the system's temporary folder. All of them are gone after the context.
    """

    def __init__(self, limit_bytes: int | None = None, folder: Path | None = None):
        asked = _limit_bytes.get()
        self.limit_bytes, self._parent = limit_bytes if asked is None else asked, folder
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._parked: dict[int, StorageWeakRef] = {}
        self._files: dict[int, tuple[Path, int]] = {}
        self._resident: dict[int, int] = {}  # bytes in memory
        self._count = 0
        self.spilled_bytes = 0  # written in all

    def __enter__(self) -> ActivationCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._parked.clear()
        self._files.clear()
        self._resident.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def park(self, storages: Iterable[UntypedStorage]) -> None:
        """Take in storages that nobody reads or writes until `loaded` or `release`; any may be emptied."""
        self._purge()
        for storage in storages:
            key = storage._cdata
            if key not in self._parked and storage.nbytes() >= _SMALLEST_BYTES and storage.resizable():
                self._parked[key], self._resident[key] = StorageWeakRef(storage), storage.nbytes()
                if self.limit_bytes is not None and sum(self._resident.values()) > self.limit_bytes:
                    self._empty(storage)

    @contextmanager
    def loaded(self, structure: Any) -> Iterator[None]:
        """The tensors of a structure hold their values inside; they must not be changed."""
        storages = [storage for storage in storages_of(structure) if storage._cdata in self._parked]
        filled = [storage for storage in storages if self._fill(storage)]
        try:
            yield
        finally:
            for storage in filled:
                if storage._cdata in self._parked:
                    self._empty(storage)

    def release(self, storages: Iterable[UntypedStorage]) -> None:
        """Give storages back, with their values."""
        for storage in storages:
            key = storage._cdata
            if key in self._parked:
                self._fill(storage)
                self._drop(key)

    def _purge(self) -> None:
        for key in [key for key, reference in self._parked.items() if reference.expired()]:
            self._drop(key)

    def _drop(self, key: int) -> None:
        del self._parked[key], self._resident[key]
        if key in self._files:
            self._files.pop(key)[0].unlink()

    def _empty(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._files:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="activations-", dir=self._parent)
            path, self._count = Path(self._folder.name) / str(self._count), self._count + 1
            with path.open("wb") as file:
                for part in _bytes(storage).split(_CHUNK_BYTES):
                    # a copy: what numpy has seen cannot be emptied
                    file.write(part.to("cpu", copy=True).numpy().data)
            self._files[key] = path, storage.nbytes()
            self.spilled_bytes += storage.nbytes()
        self._resident[key] = 0
        storage.resize_(0)

    def _fill(self, storage: UntypedStorage) -> bool:
        """Bring a storage back into memory; returns whether it was not there."""
        key = storage._cdata
        if self._resident[key]:
            return False
        path, size_bytes = self._files[key]
        storage.resize_(size_bytes)
        with path.open("rb") as file:
            for part in _bytes(storage).split(_CHUNK_BYTES):
                part.copy_(torch.from_numpy(np.fromfile(file, dtype=np.uint8, count=len(part))))
        self._resident[key] = size_bytes
        return True


def storages_of(structure: Any) -> list[UntypedStorage]:
    """The storages of a structure's tensors, each once."""
    found = {}
    for leaf in tree_leaves(structure):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided and not leaf.is_meta:
            storage = without_vmap(leaf).untyped_storage()
            found[storage._cdata] = storage
    return list(found.values())


def _bytes(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
