"""Zeros in single weights without training: how they are shared out over layers, ResNets on CIFAR-10.

    python benchmarks/pruning/sparse_allocation.py --cifar /path/to/cifar10 --model resnet20 --shares 0.7 0.8 0.9

Each row is one `prune --granularity weight` by sparsegpt with unlabelled training images; BatchNorm is estimated again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", required=True, help="folder of cifar10.zip, unpacked")
    parser.add_argument("--model", default="resnet20", choices=("resnet20", "resnet56"))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.7, 0.8, 0.9])
    parser.add_argument("--allocations", nargs="+", default=["solve", "erk", "uniform"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-images", type=int, help="the first of a fixed choice; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = str(SHARED / f"{args.model}_cifar10.safetensors")
    original, top1 = load_model(f"builtin:cifar_{args.model}", weights=weights), make_metric("top1")
    data = open_data(f"imagefolder:{args.cifar}", original.preprocessing)
    test = data.batches("test", batch_size=256, limit=args.test_images)
    base = 100 * top1.value(original.module, test)
    print(
        f"{args.model}: {base:.2f} top-1 on {test.samples} test images; seed {args.seed}; torch {torch.__version__}\n"
    )
    print("\n| zeros | allocation | top-1 | lost | seconds |\n| --- | --- | --- | --- | --- |", flush=True)
    for share in args.shares:
        for allocation in args.allocations:
            start = time.perf_counter()
            options = PruneOptions(granularity="weight", ratio=share, saliency="sparsegpt", allocation=allocation)
            made = prune(original.clone(), options, Context(original, data, top1, args.seed)).loaded
            seconds, value = time.perf_counter() - start, 100 * top1.value(made.module.eval(), test)
            print(f"| {share:.0%} | {allocation} | {value:.2f} | {base - value:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
