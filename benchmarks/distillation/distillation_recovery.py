"""ResNet-56 pruned to half its MACs: two epochs of plain fine-tuning against two of distillation from the original.

python benchmarks/distillation/distillation_recovery.py --data imagefolder:DIR --teacher-weights FILE
"""

from __future__ import annotations

import argparse
import platform
import time

import torch

import compresskit
from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.distillation.distill import distill, recover_objective
from compresskit.distillation.options import DistillOptions
from compresskit.evaluation.metrics import make_metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions

METHODS = ("fine-tuned", "distilled", "distilled with hints")
#: the cut that keeps most of the accuracy without training (see pruning_resnet56.py)
CUT = {
    "criterion": "reconstruction",
    "scope": "global",
    "normalize": "macs",
    "round_to": 1,
    "protect": ["conv1", "layer2.0.conv2", "layer3.0.conv2"],
    "reconstruct": "inputs",
    "ridge": 0.01,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="imagefolder:/tmp/cifar")
    parser.add_argument("--teacher-weights", default="../shared/models/resnet56_cifar10.safetensors")
    parser.add_argument("--target-macs", type=float, default=0.5)
    parser.add_argument("--images", type=int, help="use only this many training images")
    parser.add_argument("--test-images", type=int, default=4_000)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--augment", nargs="*", default=["crop", "flip"], help="nothing for the images as they are")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--quick", action="store_true", help="500 images, one epoch")
    args = parser.parse_args()
    if args.quick:
        args.images, args.test_images, args.epochs = 500, 500, 1
    torch.set_num_threads(1)
    original = load_model("builtin:cifar_resnet56", weights=args.teacher_weights)
    data = open_data(args.data, original.preprocessing)
    metric = make_metric("top1")

    def accuracy(loaded) -> str:
        score = metric(loaded.module, data.batches("test", batch_size=250, limit=args.test_images))
        return f"{100 * score.value:.2f} (95 %: {100 * score.low:.2f} to {100 * score.high:.2f})"

    context = Context(original, data, metric)
    pruned = prune(original.clone(), PruneOptions(target_macs=args.target_macs, **CUT), context).loaded
    print(f"compresskit {compresskit.__version__}, torch {torch.__version__}, {platform.machine()}, 1 thread")
    augmented = " and ".join(args.augment) or "not augmented"
    settings = f"{args.epochs:g} epochs, batch 128, lr {args.lr:g}, {augmented}, {args.test_images} test images"
    print(f"{args.images or 'all'} training images, {settings}")
    print("| model | seed | top-1, % | seconds |\n| --- | --- | --- | --- |")
    print(f"| original | | {accuracy(original)} | |")
    print(f"| pruned, not trained | | {accuracy(pruned)} | |", flush=True)
    options = TrainOptions(
        epochs=args.epochs, lr=args.lr, batch_size=128, train_limit=args.images, keep="last", augment=args.augment
    )
    for seed in range(args.seeds):
        run = Context(original, data, None, seed=seed)
        for name in args.methods:
            trained, began = pruned.clone(), time.perf_counter()
            trained.module.to(memory_format=torch.channels_last)
            if name == "distilled with hints":
                hints = DistillOptions(loss=["kd", "fitnet"], **options.model_dump(exclude_unset=True))
                trained = distill(trained, hints, run).loaded
            else:
                objective = recover_objective(run, options) if name == "distilled" else None
                train(trained, options, run, objective=objective)
            print(f"| {name} | {seed} | {accuracy(trained)} | {time.perf_counter() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()
