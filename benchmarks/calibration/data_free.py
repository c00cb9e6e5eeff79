"""Compression without data beside the same step with training images: int8, 4-bit weights, fewer MACs.

    python benchmarks/calibration/data_free.py --model resnet56 --cifar /path/to/cifar10 --seeds 0 1 2

Calibration never sees a label. `none` makes its inputs from the model (`--data none`); `images` takes as many training
images. Both are scored on all test images.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from statistics import mean

import torch

import compresskit
from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
#: name -> (technique, options, most points that may be lost without data)
ROWS = {
    "int8": ("quantize", {"scheme": "int8-static"}, 0.3),
    "4-bit weights": ("quantize", {"scheme": "int4-weight", "rounding": "gptq"}, 1.0),
    "70 % of the MACs": ("prune", {"target_macs": 0.7}, 5.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet56", choices=("resnet20", "resnet56"))
    parser.add_argument("--models", type=Path, default=SHARED, help="folder of the weights")
    parser.add_argument("--cifar", required=True, help="folder of cifar10.zip, unpacked")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--test-images", type=int, help="the first of a fixed choice; all by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    string, weights = f"builtin:cifar_{args.model}", str(args.models / f"{args.model}_cifar10.safetensors")
    original = load_model(string, weights=weights)
    images = f"imagefolder:{args.cifar}"
    batches = open_data(images, original.preprocessing).batches("test", batch_size=256, limit=args.test_images)
    top1 = make_metric("top1")
    base = 100 * top1(original.module, batches).value
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, one thread")
    print(f"{args.model}: {base:.2f} top-1 on {batches.samples} test images; {args.samples} calibration inputs, "
          f"{args.steps} steps\n")  # fmt: skip
    print(
        "| step | data | top-1, mean (range) | lost | may lose | seconds a run |\n| --- | --- | --- | --- | --- | --- |"
    )
    made = {"samples": args.samples, "steps": args.steps}
    for name in args.rows:
        technique, options, allowed = ROWS[name]
        sample_count = "calibration_samples" if technique == "quantize" else "samples"
        for data, data_arg in (("none", made), (images, {})):
            scores, seconds = [], []
            for seed in args.seeds:
                start = time.perf_counter()
                result = getattr(compresskit, technique)(
                    string, weights=weights, data=data, data_arg=data_arg, seed=seed, latency_rounds=0,
                    eval_limit=64, **{sample_count: args.samples}, **options,
                )  # fmt: skip
                seconds.append(time.perf_counter() - start)
                scores.append(100 * top1(result.model.eval(), batches).value)
            print(f"| {name} | {'none' if data == 'none' else 'images'} | {mean(scores):.2f} ({min(scores):.2f} to "
                  f"{max(scores):.2f}) | {base - mean(scores):.2f} | {allowed if data == 'none' else ''} | "
                  f"{mean(seconds):.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
