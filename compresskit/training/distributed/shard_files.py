"""Files of sharded training state: each process writes its parts of every tensor, into one folder a step, unpickled.

torch's reader takes shapes from the files that it finds, so that a lost file would go unnoticed. The training's record
therefore lists files with their sizes and tensors with their shapes; it is written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, empty

from ...core import distributed
from ...core.errors import InputError


def write(folder: Path, parts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write sharded tensors; every process must call it.

    Args:
        folder: gets a safetensors file a process; what an interrupted save left there goes.
        parts: name -> DTensor.
    Returns:
        what `read` needs of it, JSON-able: name of the folder, sizes of the files, shapes and dtypes of the tensors.
    """
    if distributed.is_main():
        shutil.rmtree(folder, ignore_errors=True)
    distributed.barrier()
    save(dict(parts), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    distributed.barrier()
    tensors = {name: [str(part.dtype).removeprefix("torch."), *part.shape] for name, part in parts.items()}
    return {"folder": folder.name, "files": _sizes_bytes(folder), "tensors": tensors}


def read(place: Path, record: Mapping[str, Any], like: DTensor) -> dict[str, Tensor]:
    """Tensors that `write` wrote, in any number of processes; every process must call it.

    Args:
        place: the folder that holds the folder of parts.
        record: what `write` returned.
        like: any tensor that is sharded as they are to be.
    Raises:
        InputError: if a file is missing, has another size or cannot be read.
    """
    folder = place / Path(record["folder"]).name
    found, remedy = _sizes_bytes(folder), "delete it and the file beside it to start anew"
    for name in sorted(found.keys() | record["files"].keys()):
        size, wanted = found.get(name), record["files"].get(name)
        if size != wanted:
            raise InputError(
                f"training checkpoint {str(folder)!r} is damaged: {name} has {size or 0} bytes, its record says "
                f"{wanted or 0}; {remedy}"
            )
    mesh, placements = like.device_mesh, like.placements
    parts: dict[str, Tensor] = {
        name: empty(shape, dtype=getattr(torch, dtype), device_mesh=mesh, placements=placements)
        for name, (dtype, *shape) in record["tensors"].items()
    }
    try:
        load(parts, storage_reader=HuggingFaceStorageReader(str(folder)))
    except CheckpointException as error:
        reason = str(next(iter(error.failures.values()))[0]).splitlines()[0]
        raise InputError(f"training checkpoint {str(folder)!r} is damaged ({reason}); {remedy}") from error
    return parts


def _sizes_bytes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*"))}
