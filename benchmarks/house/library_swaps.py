"""Our own code against a library's, in turn in one process: benchmarks/results/library_swaps.md has the figures.

python benchmarks/house/library_swaps.py files|dataset|checkpoint|plot
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count as counted
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from compresskit.core.types import Preprocessing
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.batches import Batches
from compresskit.data.dataset import Data, open_data
from compresskit.data.splits.base import Splits
from compresskit.data.splits.files import FileSplit

_STEP_SECONDS = 0.15


def compare(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print each way's median seconds, its range, and its median ratio to the first way of the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, first, strict=True))
        spread = f"{statistics.median(values):.4f} | {min(values):.4f} to {max(values):.4f}"
        print(f"{title} | {name} | {spread} | {ratio:.2f}", flush=True)


def read(batches: Batches, step: Callable[[], object]) -> None:
    """One pass, a step after each batch."""
    for _ in batches:
        step()


def files(rounds: int, folder: Path, *, images: int = 192) -> None:
    """JPEG files: a pool of threads a batch (no workers), and DataLoader's workers."""
    from PIL import Image

    draw = np.random.default_rng(0)
    paths = [folder / f"{number:04}.jpg" for number in range(images)]
    for path in paths:
        small = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    split = FileSplit(paths, torch.zeros(images, dtype=torch.long), (224, 224), 3)
    for title, step in (("reading alone", int), ("0.15 s elsewhere a batch", partial(time.sleep, _STEP_SECONDS))):
        ways = {}
        for count in (0, 1, 2):
            data = Data("files", Splits(split, split, split), Preprocessing(), workers=count)
            ways[f"workers {count}"] = partial(read, data.batches("train", batch_size=32), step)
        compare(title, ways, rounds)


class Slow(Dataset):
    """Examples that take long: they wait for something, or compute in Python."""

    def __init__(self, *, waits: bool):
        self.waits = waits

    def __len__(self) -> int:
        return 320

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.waits:
            time.sleep(0.004)
        else:
            sum(number * number for number in range(60_000))
        return torch.full((3, 64, 64), float(index)), index % 10


def dataset(rounds: int, folder: Path) -> None:
    """A Dataset of the user's: read in this process, and by workers."""
    for title, waits in (("an example waits 4 ms", True), ("an example computes in Python", False)):
        ways = {}
        for count in (0, 2, 4):
            test = (torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.long))
            with named_objects({"d": (DataLoader(Slow(waits=waits)), test)}):
                data = open_data("in-memory:d", workers=count)
            ways[f"workers {count}"] = partial(read, data.batches("train", batch_size=16), int)
        compare(title, ways, rounds)


def _save(rank: int, world: int, rounds: int, folder: Path) -> None:
    from compresskit.training.checkpoints import checkpoint
    from compresskit.training.distributed import fsdp
    from compresskit.training.optim import gathered

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Sequential(nn.Linear(1024, 1023), nn.ReLU(), nn.Linear(1023, 1024)) for _ in range(6)])
    sharded = fsdp.Sharded(net, torch.device("cpu"))
    optimizer = torch.optim.AdamW(sharded.module.parameters())
    sharded.module(torch.randn(4, 1024)).sum().backward()
    optimizer.step()

    def whole() -> None:
        tensors = checkpoint.prefixed("module", sharded.weights())
        states = checkpoint.optimizer_tensors(optimizer).items()
        tensors |= checkpoint.prefixed("optimizer", {name: gathered(value) for name, value in states})
        if rank == 0:
            checkpoint.write(folder / "whole.safetensors", tensors, {})
        dist.barrier()

    def by_rank() -> None:
        tensors = checkpoint.prefixed("module", sharded.parts())
        tensors |= checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(optimizer))
        sharded.write(folder / "parts.safetensors", tensors, {"state": {"step": next(steps)}})
        dist.barrier()

    steps = counted()
    ways = {"one file, gathered": whole, "a file a process": by_rank}
    if rank:
        for _ in range(rounds):
            for run in ways.values():
                run()
    else:
        compare("checkpoint of 151 MB of weights and AdamW state", ways, rounds)
        print([path.relative_to(folder).as_posix() for path in sorted(folder.rglob("parts*/*"))])
    dist.destroy_process_group()


def checkpoint(rounds: int, folder: Path) -> None:
    """FSDP in two processes: whole tensors gathered into one file, and torch.distributed.checkpoint."""
    torch.multiprocessing.spawn(_save, (2, rounds, folder), 2)  # type: ignore[attr-defined]


def plot(rounds: int, folder: Path) -> None:
    """A training curve: our SVG, and matplotlib's."""
    from compresskit.core.reporting.figures import new_figure
    from compresskit.training.logging import write_curves

    rows = [{"epoch": epoch, "loss": 2 / (epoch + 1), "val_top1": 0.5 + epoch / 60} for epoch in range(1, 31)]

    def matplotlib() -> None:
        figure, axes = new_figure(1, (6.4, 3.2))
        for name in ("loss", "val_top1"):
            axes.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=name)
        figure.savefig(folder / "b.svg")

    start = time.perf_counter()
    matplotlib()
    print(f"first plot with matplotlib, import included: {time.perf_counter() - start:.2f} s")
    compare("training curve", {"SVG": partial(write_curves, rows, folder / "a.svg"), "matplotlib": matplotlib}, rounds)


def main() -> None:
    """Run one comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    ways = {"files": files, "dataset": dataset, "checkpoint": checkpoint, "plot": plot}
    parser.add_argument("comparison", choices=ways)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        ways[given.comparison](given.rounds, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
