"""Run by test_shard_files: saves a sharded training in two processes and reads it in others; prints what became of it.

The processes are forked from this one, which has imported everything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.training.checkpoints import checkpoint
from compresskit.training.distributed.fsdp import Sharded
from compresskit.training.optim import gathered

STATE = {"state": {"step": 4}}


def start() -> tuple[Sharded, torch.optim.Optimizer]:
    """The same sharded network with a fresh optimizer in every group; no size divides by two or three."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 1), nn.Sequential(nn.Linear(1, 3)))
    sharded = Sharded(net, torch.device("cpu"))
    return sharded, torch.optim.AdamW(sharded.module.parameters())


def whole(sharded: Sharded, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = {name: gathered(value) for name, value in checkpoint.optimizer_tensors(optimizer).items()}
    return checkpoint.prefixed("module", sharded.weights()) | checkpoint.prefixed("optimizer", states)


def save(folder: Path) -> None:
    """At two steps, and whole as an older version did."""
    sharded, optimizer = start()
    sharded.module(torch.randn(4, 7)).sum().backward()
    optimizer.step()
    states = checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(optimizer))
    for step in (3, 4):
        tensors = checkpoint.prefixed("module", sharded.parts()) | states
        sharded.write(folder / "training.safetensors", tensors, {"state": {"step": step}})
    tensors = whole(sharded, optimizer)
    if dist.get_rank() == 0:
        checkpoint.write(folder / "older.safetensors", tensors, STATE)


def read(folder: Path, name: str) -> str:
    """Whether a training that resumes from a checkpoint is where the saved one was, or the error."""
    sharded, optimizer = start()
    try:
        tensors, _ = sharded.read(folder / name)
    except InputError as error:
        return str(error)
    sharded.set_weights(checkpoint.under("module", tensors))
    sharded.restore_optimizer(optimizer, checkpoint.under("optimizer", tensors))
    found, (wanted, _) = whole(sharded, optimizer), checkpoint.read(folder / "older.safetensors")
    equal = found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in found)
    sharded.module(torch.randn(4, 7)).sum().backward()
    optimizer.step()  # what was read can be trained
    return "equal" if equal else "different"


def in_processes(world: int, folder: Path, name: str | None) -> str | None:
    """Run save, or read where a name is given, in so many processes; what the first of them returns."""
    store, answer = folder / "store", folder / "answer"
    store.unlink(missing_ok=True)
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
            dist.init_process_group("gloo", store=dist.FileStore(str(store), world), rank=rank, world_size=world)
            result = save(folder) if name is None else read(folder, name)
            if rank == 0:
                answer.write_text(json.dumps(result))
            dist.barrier()
            dist.destroy_process_group()
            os._exit(0)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    return json.loads(answer.read_text()) if not any(ends) else f"processes ended with {ends}"


def main() -> None:
    """Print what each reading gave."""
    folder = Path(sys.argv[1])
    results = {"save": in_processes(2, folder, None)}
    results["files"] = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("training*/*"))
    for world in (1, 2, 3):
        results[f"in {world}"] = in_processes(world, folder, "training.safetensors")
    results["older"] = in_processes(2, folder, "older.safetensors")
    (folder / results["files"][1]).unlink()
    results["lost"] = in_processes(2, folder, "training.safetensors")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
