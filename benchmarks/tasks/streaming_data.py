"""Peak memory of a stream of many images, and the time of an epoch over image files, with worker processes and without.

    python benchmarks/tasks/streaming_data.py                      memory: 2,000 images beside 200,000
    python benchmarks/tasks/streaming_data.py epochs [CHECKOUT]    time: 0, 1 and 2 workers, beside another \
        checkout's reader

Memory: an IterableDataset makes images of 3x32x32; each run opens it, takes 512 examples for calibration and evaluates
a small network on all of them, in a process of its own, whose largest resident memory is read at the end. Time: 2,000
JPEG files of 256 pixels, decoded to 96 pixels in batches of 64, augmented (crop, flip), each batch used by a training
step of a small network; runs take turns, the median of 3.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNTS = (2_000, 200_000)
ROUNDS = 3
FILES, SIDE, SIZE, BATCH = 2_000, 256, 96, 64


def network(side: int):
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def memory(count: int) -> None:
    """One process of the memory table: prints a JSON line."""
    import torch
    from torch.utils.data import IterableDataset

    from compresskit.core.user_code.in_memory import named_objects
    from compresskit.data.dataset import open_data
    from compresskit.evaluation.metrics import make_metric

    class Images(IterableDataset):
        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            return ((torch.rand(3, 32, 32, generator=generator), number % 10) for number in range(count))

    torch.manual_seed(0)
    module = network(32).eval()
    with named_objects({"d": (Images(), Images())}):
        data = open_data("in-memory:d")
    opened = peak_mib()
    started = time.perf_counter()
    calibration = sum(len(batch) for batch in data.calibration(512))
    calibrated = peak_mib()
    score = make_metric("top1")(module, data.batches("test", batch_size=256))
    seconds = time.perf_counter() - started
    print(json.dumps({"images": count, "evaluated": score.samples, "calibration": calibration, "opened_mib": opened,
                      "calibrated_mib": calibrated, "peak_mib": peak_mib(), "seconds": round(seconds, 1)}))  # fmt: skip


def peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def write_files(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (("train", FILES), ("test", 20)):
        for number in range(count):
            place = folder / split / f"class{number % 10}"
            place.mkdir(parents=True, exist_ok=True)
            small = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE)).save(place / f"{number:05}.jpg", quality=90)


def epoch(folder: str, workers: int) -> None:
    """One process of the table of times: prints seconds of an epoch; nothing is read from a cache of decoded images."""
    import torch

    from compresskit.data import sources
    from compresskit.data.augmentation import transforms
    from compresskit.data.dataset import open_data

    # as if the set were larger than what is kept in memory
    if hasattr(sources, "_CACHED_BYTES"):  # an earlier checkout
        sources._CACHED_BYTES = 0
    else:
        from compresskit.data.sources.images import imagefolder

        imagefolder.CACHED_BYTES = 0
    data = open_data(f"imagefolder:{folder}", args={"size": SIZE}, workers=workers)
    batches = data.batches("train", batch_size=BATCH, shuffle=True, augment=transforms.compose(["crop", "flip"]))
    torch.manual_seed(0)
    module = network(SIZE)
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    started = time.perf_counter()
    for inputs, targets in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    seconds = time.perf_counter() - started
    digest = float(sum(parameter.double().abs().sum() for parameter in module.parameters()))
    print(json.dumps({"seconds": seconds, "weights": round(digest, 6)}))


def child(arguments: list[str], checkout: str | None = None) -> dict:
    environment = {**os.environ, "PYTHONPATH": checkout or str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["child-memory"]:
        return memory(int(arguments[1]))
    if arguments[:1] == ["child-epoch"]:
        return epoch(arguments[1], int(arguments[2]))
    import torch

    print(f"torch {torch.__version__}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    if arguments[:1] != ["epochs"]:
        for count in COUNTS:
            print(json.dumps(child(["child-memory", str(count)])), flush=True)
        return None
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        runs = [("0 workers", "0", None), ("1 worker", "1", None), ("2 workers", "2", None)]
        runs += [(f"{n} workers, {arguments[1]}", str(n), arguments[1]) for n in (0, 2) if len(arguments) > 1]
        seconds: dict[str, list[float]] = {name: [] for name, _, _ in runs}
        weights = set()
        for _ in range(ROUNDS):
            for name, workers, checkout in runs:
                found = child(["child-epoch", folder, workers], checkout)
                seconds[name].append(found["seconds"])
                weights.add(found["weights"])
        for name, taken in seconds.items():
            print(f"{name}: {statistics.median(taken):.2f} s, {FILES * 0.9 / statistics.median(taken):,.0f} images/s")
        print(f"weights equal in all runs: {len(weights) == 1}")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
