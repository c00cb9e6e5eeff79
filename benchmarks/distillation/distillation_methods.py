"""ResNet-56 teaches ResNet-20 on CIFAR-10: eight methods side by side, three seeds, a fixed subset of the images.

    python benchmarks/distillation/distillation_methods.py --data imagefolder:DIR --teacher-weights FILE

The student starts either from its random weights ("scratch") or as the teacher with two thirds of its blocks dropped
("slimmed"). There is no augmentation, so the teacher answers once and its answers are kept in memory for all runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

import compresskit
from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.distillation.matching.taps import CapturedFeatures
from compresskit.distillation.models import Teacher
from compresskit.distillation.objective import Objective
from compresskit.distillation.options import DistillOptions
from compresskit.distillation.plan import make_plan
from compresskit.distillation.students import make_student
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train

METHODS = ("none", "kd", "fitnet", "at", "rkd", "dkd", "crd", "reviewkd")
LAYERS = ("layer1", "layer2", "layer3")


class Remembered:
    """What the teacher answered and held inside for every training image that is used."""

    def __init__(self, teacher: Loaded, data, images: int):
        batches = data.batches("train", batch_size=250, limit=images)
        objective = Objective(Teacher([teacher], teacher.preprocessing, torch.device("cpu")), [], task_weight=1.0)
        self.row = torch.full((int(batches.order().max()) + 1,), -1)
        self.row[batches.order()] = torch.arange(len(batches.order()))
        parts = []
        from compresskit.distillation.matching.taps import tapped

        with torch.no_grad():
            for inputs, _ in batches:
                with tapped(teacher.module, LAYERS, "linear") as taken:
                    logits = objective._teacher(inputs)
                parts.append((logits, taken.embedding, *(taken.outputs[name] for name in LAYERS)))
        self.logits, self.embeddings, *self.features = (torch.cat(column) for column in zip(*parts, strict=True))

    def replay(self, indices: torch.Tensor) -> tuple[torch.Tensor, CapturedFeatures, list]:
        rows = self.row[indices]
        features = {name: values[rows] for name, values in zip(LAYERS, self.features, strict=True)}
        return self.logits[rows], CapturedFeatures(features, features, self.embeddings[rows]), []


def remember(objective: Objective, remembered: Remembered) -> None:
    """Let an objective take the teacher's side from memory."""
    run = objective._run

    def from_memory(module, inputs, side):
        return remembered.replay(objective._indices) if side == "teacher" else run(module, inputs, side)

    objective._run = from_memory


def run_once(method: str, start: str, seed: int, teacher: Loaded, data, remembered: Remembered, args) -> dict:
    student = (
        make_student(teacher, depth=1 / 3) if start == "slimmed" else load_model("builtin:cifar_resnet20", seed=seed)
    )
    lr = args.slimmed_lr if start == "slimmed" else args.lr
    options = DistillOptions(
        loss=["kd" if method == "none" else method],
        epochs=args.epochs,
        lr=lr,
        batch_size=args.batch_size,
        keep="last",
        train_limit=args.images,
        lr_schedule="one-cycle",
    )
    context = Context(teacher, data, None, seed=seed)
    began = time.perf_counter()
    objective, extra = None, []
    if method != "none":
        objective = make_plan(
            student, Teacher([teacher], teacher.preprocessing, torch.device("cpu")), options, context
        ).objective
        extra = objective.adapters
        remember(objective, remembered)
    student.module.to(memory_format=torch.channels_last)
    facts = train(student, options, context, objective=objective, extra_modules=extra)
    score = make_metric("top1")(student.module, data.batches("test", batch_size=250, limit=args.test_images))
    return {
        "method": method,
        "start": start,
        "seed": seed,
        "top1": score.value,
        "loss": facts["history"][-1]["loss"],
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(rows: list[dict], start: str) -> list[str]:
    lines = [
        "| method | top-1 of each seed, % | mean | spread (s.d.) | against none | seconds a run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    values = {m: [100 * r["top1"] for r in rows if r["start"] == start and r["method"] == m] for m in METHODS}
    for method, found in values.items():
        if not found:
            continue
        spread = f"{statistics.stdev(found):.2f}" if len(found) > 1 else "one run"
        gain = f"{statistics.mean(found) - statistics.mean(values['none']):+.2f}" if values["none"] else ""
        seconds = statistics.mean(r["seconds"] for r in rows if r["start"] == start and r["method"] == method)
        each = ", ".join(f"{value:.2f}" for value in found)
        lines.append(f"| {method} | {each} | {statistics.mean(found):.2f} | {spread} | {gain} | {seconds:.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagefolder:/tmp/cifar")
    parser.add_argument("--teacher-weights", default="../shared/models/resnet56_cifar10.safetensors")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--test-images", type=int, default=4_000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--slimmed-lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", nargs="+", default=["scratch", "slimmed"], choices=["scratch", "slimmed"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("/tmp/distillation_methods.jsonl"),
        help="finished runs, one a line; they are not run again",
    )
    parser.add_argument("--quick", action="store_true", help="one seed, 1,000 images, one epoch")
    args = parser.parse_args()
    if args.quick:
        args.images, args.test_images, args.epochs, args.seeds = 1000, 500, 1, 1
        args.runs = args.runs.with_suffix(".quick.jsonl")
    torch.set_num_threads(1)
    teacher = load_model("builtin:cifar_resnet56", weights=args.teacher_weights)
    data = open_data(args.data, teacher.preprocessing)
    settings = [args.images, args.test_images, args.epochs, args.batch_size, args.lr, args.slimmed_lr]
    rows = [json.loads(line) for line in args.runs.read_text().splitlines()] if args.runs.exists() else []
    rows = [row for row in rows if row["settings"] == settings]
    remembered = Remembered(teacher, data, args.images)
    for seed in range(args.seeds):
        for start in args.starts:
            for method in args.methods:
                if any((r["method"], r["start"], r["seed"]) == (method, start, seed) for r in rows):
                    continue
                rows.append({**run_once(method, start, seed, teacher, data, remembered, args), "settings": settings})
                print(rows[-1], flush=True)
                with open(args.runs, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(f"compresskit {compresskit.__version__}, torch {torch.__version__}, {platform.machine()}, 1 thread")
    print(
        f"{args.images} training images, {args.epochs:g} epochs, batch {args.batch_size}, one-cycle to lr {args.lr:g} "
        f"(scratch) or {args.slimmed_lr:g} (slimmed), no augmentation, {args.test_images} test images"
    )
    score = make_metric("top1")(teacher.module, data.batches("test", batch_size=250, limit=args.test_images))
    print(f"teacher: {100 * score.value:.2f} %")
    for start in args.starts:
        print("\n".join(["", f"### {start}", "", *table(rows, start)]))


if __name__ == "__main__":
    main()
