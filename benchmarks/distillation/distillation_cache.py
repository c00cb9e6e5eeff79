"""Time of an epoch with and without the teacher's logits on disk, interleaved in one run.

python benchmarks/distillation/distillation_cache.py --data imagefolder:DIR --teacher-weights FILE
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

import compresskit
from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.distillation.distill import distill
from compresskit.distillation.options import DistillOptions
from compresskit.training.context import Context


def epoch_seconds(teacher, data, images: int, cache: Path | None) -> tuple[float, float, float]:
    """(wall seconds, processor seconds, last loss) of one epoch of ResNet-20 under Hinton's loss."""
    options = DistillOptions(
        student="builtin:cifar_resnet20",
        epochs=1,
        train_limit=images,
        batch_size=64,
        keep="last",
        cache=str(cache) if cache else None,
    )
    context = Context(teacher, data, None, load=load_model)
    wall, processor = time.perf_counter(), time.process_time()
    facts = distill(teacher, options, context).facts
    return time.perf_counter() - wall, time.process_time() - processor, facts["history"][-1]["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagefolder:/tmp/cifar")
    parser.add_argument("--teacher-weights", default="../shared/models/resnet56_cifar10.safetensors")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="500 images, one round")
    args = parser.parse_args()
    if args.quick:
        args.images, args.rounds = 500, 1
    torch.set_num_threads(1)
    teacher = load_model("builtin:cifar_resnet56", weights=args.teacher_weights)
    data = open_data(args.data, teacher.preprocessing)
    with tempfile.TemporaryDirectory() as folder:
        rows: dict[str, list[tuple[float, float, float]]] = {"without": [], "filling": [], "with": []}
        for number in range(args.rounds):
            cache = Path(folder) / str(number)
            rows["without"].append(epoch_seconds(teacher, data, args.images, None))
            rows["filling"].append(epoch_seconds(teacher, data, args.images, cache))
            rows["with"].append(epoch_seconds(teacher, data, args.images, cache))
    versions = f"compresskit {compresskit.__version__}, torch {torch.__version__}, {platform.machine()}"
    print(f"{versions}, 1 thread, {args.images} images an epoch")
    print("| epoch | wall seconds (median) | processor seconds (median) | loss |\n| --- | --- | --- | --- |")
    for name, found in rows.items():
        wall, processor = (statistics.median(row[i] for row in found) for i in range(2))
        print(f"| {name} | {wall:.2f} | {processor:.2f} | {found[0][2]:.6f} |")
    ratio = statistics.median(a[1] / b[1] for a, b in zip(rows["without"], rows["with"], strict=True))
    print(f"an epoch with cached logits takes 1/{ratio:.2f} of the processor time of one without")


if __name__ == "__main__":
    main()
