"""Deep Compression: prune single weights, share the rest by k-means, Huffman-code what is left.

    python benchmarks/quantization_deep_compression.py [--nets lenet300 lenet5] [--epochs 30] [--quick]
    python benchmarks/quantization_deep_compression.py --nets cifar_resnet56 --models ../shared/models --data DIR

LeNets are trained here on scikit-learn's 8x8 digits, enlarged to the 28x28 pixels they take (MNIST is not on this
machine: sizes compare with the paper's, accuracies do not). Every stage uses the techniques' own entry points; bytes
are those of the saved weights file. Paper: Han et al., ICLR 2016, table 1: 40x on LeNet-300-100, 39x on LeNet-5.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from compresskit.core import artifact
from compresskit.core.data import open_data
from compresskit.core.metrics import make_metric
from compresskit.core.options import TrainStepOptions
from compresskit.core.source import load_model
from compresskit.core.train import train
from compresskit.core.types import Context, Loaded
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured import prune
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize

#: share of weights removed; the paper keeps 8 % of both LeNets
PRUNED = {"lenet300": 0.92, "lenet5": 0.92}


def saved_bytes(loaded: Loaded) -> int:
    """Size of the weights file that the model is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(loaded, Path(folder) / "model")
        return (Path(folder) / "model" / "model.safetensors").stat().st_size


def line(stage: str, loaded: Loaded, context: Context, start_bytes: int) -> None:
    """One row of the table."""
    score = context.metric(loaded.module, context.data.batches("test", batch_size=250))
    size = saved_bytes(loaded)
    print(f"| {stage} | {100 * score.value:.2f} | {size:,} | {start_bytes / size:.1f}x |", flush=True)


def compress(net: str, loaded: Loaded, context: Context, arguments: argparse.Namespace) -> None:
    """Run the three stages and print a row after each."""
    start = saved_bytes(loaded)
    print(f"\n## {net}, {context.data.size('test')} test images\n")
    print("| stage | top-1 | weights file | ratio |\n| --- | --- | --- | --- |")
    line("trained", loaded, context, start)
    tuning = {"epochs": arguments.tune_epochs, "lr": arguments.lr, "recover": "finetune", "batch_size": arguments.batch}
    ratio = PRUNED.get(net, arguments.ratio)
    options = PruneOptions(granularity="weight", ratio=ratio, allocation=arguments.allocation, **tuning)
    loaded = prune(loaded, options, context).loaded
    train(loaded, options, context)
    line("pruned, fine-tuned, zeros as bitmaps", loaded, context, start)
    for bits in arguments.bits:
        shared = loaded.clone()
        options = QuantizeOptions(
            scheme="codebook", bits=bits, first_last="same", coding="huffman", fold_batchnorm=net not in PRUNED,
            **(tuning | {"lr": arguments.lr / 10}),
        )  # fmt: skip
        result = quantize(shared, options, replace(context, original=loaded.clone()))
        line(f"{bits}-bit codebook, Huffman", shared, context, start)
        train(shared, options, context)
        line(f"{bits}-bit codebook, tuned, Huffman", shared, context, start)
        kinds = ("values", "positions", "codebooks", "overhead", "float")
        print("| | | " + ", ".join(f"{kind} {result.facts[f'{kind}_bytes']:,}" for kind in kinds) + " | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["lenet300", "lenet5"])
    parser.add_argument("--models", type=Path, help="folder of the CIFAR checkpoints")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 images")
    parser.add_argument("--ratio", type=float, default=0.8, help="share of weights removed of networks without a table")
    parser.add_argument("--allocation", default="global", help="how pruning spreads the ratio over layers")
    parser.add_argument("--epochs", type=float, default=30, help="epochs to train a LeNet")
    parser.add_argument("--tune-epochs", type=float, default=15, help="epochs after pruning and after sharing")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--bits", type=int, nargs="+", default=[5, 4, 3])
    parser.add_argument("--quick", action="store_true", help="LeNet-300-100 with a few epochs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.quick:
        arguments.nets, arguments.epochs, arguments.tune_epochs, arguments.bits = ["lenet300"], 5, 2, [4]
    for net in arguments.nets:
        cifar = net.startswith("cifar")
        weights = str(arguments.models / f"{net.removeprefix('cifar_')}_cifar10.safetensors") if cifar else None
        loaded = load_model(f"builtin:{net}", weights=weights)
        size = None if cifar else (28, 28)
        preprocessing = replace(loaded.preprocessing, size=size) if size else loaded.preprocessing
        data = open_data(f"imagefolder:{arguments.data}" if cifar else "digits", preprocessing)
        context = Context(original=loaded, data=data, metric=make_metric("top1"))
        if not cifar:
            train(loaded, TrainStepOptions(epochs=arguments.epochs, lr=0.05, batch_size=arguments.batch), context)
        compress(net, loaded, replace(context, original=loaded.clone()), arguments)


if __name__ == "__main__":
    main()
