"""Costs that are counts: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import save_file

from ....artifact import artifact
from ....artifact.codecs.storage import encode_all
from ....core.errors import InputError
from ....core.types import Inputs, Loaded
from ..work import Work


def macs(work: Work) -> float:
    """Multiply-accumulates of one forward, whatever numbers they multiply."""
    return float(sum(work.macs.values()))


def params(work: Work) -> float:
    """Weights that the model computes with."""
    return float(work.params)


def tensor_bytes(work: Work) -> float:
    """Bytes of the tensors; a weights file adds its header."""
    return float(work.stored_bytes)


def stored_bytes(loaded: Loaded, inputs: Inputs | None = None) -> int:
    """Size of the weights file this model is stored in, found by writing it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / artifact.WEIGHTS
        try:
            save_file(encode_all(artifact.unique_tensors(loaded.module)[0], loaded.storage), path)
        except OSError as error:
            raise InputError(f"cannot write to {folder!r} to measure the stored size: {error.strerror}") from error
        return path.stat().st_size
