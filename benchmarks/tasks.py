"""A U-Net and a detector on scenes of digits: the float model, int8, 4-bit weights, half the MACs, half the width.

python benchmarks/tasks.py segmentation --seeds 0 1 2
python benchmarks/tasks.py detection --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import compresskit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
TRAINING = {"optimizer": "adamw", "lr": 0.003, "batch_size": 32, "grad_clip": 5.0}
TASKS = ("segmentation", "detection")


def make(task: str, width: int) -> nn.Module:
    """The model of a task."""
    if task == "segmentation":
        import segmentation_unet

        return segmentation_unet.UNet(width)
    import detection_ssd

    return detection_ssd.make(width)


def value(result: Any) -> float:
    """The metric after a call, in points."""
    return 100 * result.report["steps"][-1]["measurement"]["metric"]["value"]


def rows(task: str, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Metric by name, in points, of one seed."""
    shared = {
        "data": f"digits-{task}", "data_arg": {"train": options.train, "test": options.test}, "latency_rounds": 0,
        "seed": seed,
    }  # fmt: skip
    torch.manual_seed(seed)
    full = compresskit.train(make(task, options.width), epochs=options.epochs, **TRAINING, **shared)
    found = {"float": value(full)}
    print(seed, found, flush=True)
    recover = {"recover": "kd", "epochs": options.recovery_epochs, **TRAINING, **shared}
    calls = {
        "int8-static": lambda: compresskit.quantize(full, scheme="int8-static", **shared),
        "int4-weight": lambda: compresskit.quantize(full, scheme="int4-weight", **shared),
        "half the MACs, kd": lambda: compresskit.prune(full, target_macs=0.5, **recover),
        "half the MACs, kd without labels": lambda: compresskit.prune(
            full, target_macs=0.5, labels="ignore", **recover
        ),
    }
    if task == "detection":
        training = {"epochs": options.epochs, **TRAINING, **shared}
        small = {"student_width": 0.5, **training}
        calls |= {
            "half the width, distilled": lambda: compresskit.distill(full, **small),
            "half the width, trained alone": lambda: compresskit.train(make(task, options.width // 2), **training),
        }
    for name, call in calls.items():
        started = time.perf_counter()
        found[name] = value(call())
        print(f"{seed} {name}: {found[name]:.2f} ({time.perf_counter() - started:.0f} s)", flush=True)
    return found


def main() -> None:
    """Print a table of mean and spread over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--train", type=int, default=1600)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--recovery-epochs", type=float, default=2)
    options = parser.parse_args()
    print(f"command: python benchmarks/tasks.py {' '.join(sys.argv[1:])}")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    found = [rows(options.task, options, seed) for seed in options.seeds]
    print(f"\n{'row':34} {'mean':>7} {'float less':>10}   each seed")
    for name in found[0]:
        values = [row[name] for row in found]
        drop = sum(row["float"] - row[name] for row in found) / len(found)
        print(f"{name:34} {sum(values) / len(values):7.2f} {drop:10.2f}   {' '.join(f'{one:.2f}' for one in values)}")


if __name__ == "__main__":
    main()
