"""How long evaluation takes in batches of 256 and in batches sized by activation memory: wall, user and system time.

Images of 224 pixels from an .npz file, through the metric as a recipe measures it; the two sizes take turns.

python benchmarks/tasks/evaluation_time.py [--models efficientnet_b0 ...] [--images 256] [--rounds 3] \
    [--batches 256 auto]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision

from compresskit.analysis.measure.batch_size import evaluation_batch
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric

MODELS = ("efficientnet_b0", "mobilenet_v3_large", "resnet18")


def usage() -> np.ndarray:
    """Seconds so far: wall, user, system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return np.array([time.perf_counter(), used.ru_utime, used.ru_stime])


def main() -> None:
    """Evaluate each model with each batch size in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", nargs="+", default=["256", "auto"], help="the first one is the baseline")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, 3, 224, 224), dtype=np.uint8)
    labels = rng.integers(0, 1000, options.images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        np.savez(path, x_train=images[:16], y_train=labels[:16], x_test=images, y_test=labels)
        data = open_data(f"npz:{path}")
    print("| model | batch | wall s | user s | system s | wall | user + system | metric |\n" + "| --- " * 8 + "|")
    for name in options.models:
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)(weights=None).eval()
        metric = make_metric("top1", module)
        one, _ = next(iter(data.batches("test", batch_size=1)))
        auto = evaluation_batch(module, one)
        sizes = [auto if batch == "auto" else int(batch) for batch in options.batches]
        found, values = {size: [] for size in sizes}, {}
        for _ in range(options.rounds):
            for size in sizes:
                before = usage()
                values[size] = metric(module, data.batches("test", batch_size=size)).value
                found[size].append(usage() - before)
        base = np.array(found[sizes[0]])
        for label, size in zip(options.batches, sizes, strict=True):
            seconds = np.array(found[size])
            wall, user, system = np.median(seconds, axis=0)
            ratio = statistics.median(base[:, 0] / seconds[:, 0])
            cpu = statistics.median(base[:, 1:].sum(1) / seconds[:, 1:].sum(1))
            batch = f"{size} ({label})" if label == "auto" else label
            print(f"| {name} | {batch} | {wall:.1f} | {user:.1f} | {system:.1f} | {ratio:.2f}x | {cpu:.2f}x | "
                  f"{values[size]:.4f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
