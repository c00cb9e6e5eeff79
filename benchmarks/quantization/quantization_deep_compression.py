"""Deep Compression: prune single weights, share the rest by k-means, Huffman-code what is left.

    python benchmarks/quantization/quantization_deep_compression.py [--nets lenet300 lenet5] [--epochs 30] [--quick]
    python benchmarks/quantization/quantization_deep_compression.py --nets cifar_resnet56 --models \
        ../shared/models --data DIR

LeNets are trained here on scikit-learn's 8x8 digits, enlarged to the 28x28 pixels they take (MNIST is not on this
machine: sizes compare with the paper's, accuracies do not). Every stage uses the techniques' own entry points; bytes
are those of the saved weights file. Paper: Han et al., ICLR 2016, table 1: 40x on LeNet-300-100, 39x on LeNet-5.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from quantization_peers import Rows

from compresskit.artifact import artifact
from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.quantization.layers.weights import bytes_by_kind
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.qat import distill_objective
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainStepOptions

#: share of weights removed; the paper keeps 8 % of both LeNets
PRUNED = {"lenet300": 0.92, "lenet5": 0.92}


class Setting(NamedTuple):
    """One network's run: where finished rows are kept, under which key, and how its stages train."""

    net: str
    rows: Rows
    key: str
    context: Context
    tuning: dict[str, Any]
    objective: Callable | None


def saved_bytes(loaded: Loaded) -> int:
    """Size of the weights file that the model is saved to."""
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(loaded, Path(folder) / "model")
        return (Path(folder) / "model" / "model.safetensors").stat().st_size


def line(setting: Setting, stage: str, make: Callable[[], Loaded], start_bytes: int) -> None:
    """Print one row of the table; what it takes is made only where the row is not kept already."""

    def measure() -> dict[str, float]:
        loaded = make()
        context = setting.context
        score = context.metric(loaded.module, context.data.batches("test", batch_size=250))
        return {"top1": 100 * score.value, "bytes": saved_bytes(loaded)}

    row = setting.rows.get(f"{setting.key}, {stage}", measure)
    print(f"| {stage} | {row['top1']:.2f} | {row['bytes']:,} | {start_bytes / row['bytes']:.1f}x |", flush=True)


def stage_context(setting: Setting, folder: Path | None, stage: str) -> Context:
    """The context whose folder keeps a stage's training, so that a run cut short goes on."""
    return replace(setting.context, folder=folder / stage if folder else None)


def compress(setting: Setting, loaded: Loaded, arguments: argparse.Namespace) -> None:
    """Run the three stages and print a row after each."""
    start = saved_bytes(loaded)
    print(f"\n## {setting.net}, {setting.context.data.size('test')} test images; {setting.key}\n")
    print("| stage | top-1 | weights file | ratio |\n| --- | --- | --- | --- |")
    line(setting, "trained", lambda: loaded, start)
    ratio = PRUNED.get(setting.net, arguments.ratio)
    saliency = {"saliency": arguments.saliency, "allocation": arguments.allocation}
    options = PruneOptions(granularity="weight", ratio=ratio, **saliency, **setting.tuning)
    pruned = prune(loaded, options, setting.context).loaded
    train(pruned, options, stage_context(setting, arguments.folder, "pruned"), objective=setting.objective)
    line(setting, "pruned, fine-tuned, zeros as bitmaps", lambda: pruned, start)
    for bits in arguments.bits:
        kinds = share(setting, pruned.clone(), bits, start, arguments)
        print("| | | " + ", ".join(f"{kind} {size:,}" for kind, size in kinds.items()) + " | |", flush=True)


def share(setting: Setting, shared: Loaded, bits: int, start: int, arguments: argparse.Namespace) -> dict[str, int]:
    """Share the weights of a pruned model, tune them, and print a row after each; returns bytes by kind."""
    tuning = setting.tuning | {"lr": arguments.lr / 10}
    options = QuantizeOptions(
        scheme="codebook", bits=bits, first_last="same", coding="huffman", fold_batchnorm=setting.net not in PRUNED,
        **tuning,
    )  # fmt: skip
    quantize(shared, options, replace(setting.context, original=shared.clone()))
    line(setting, f"{bits}-bit codebook, Huffman", lambda: shared, start)

    def tuned() -> Loaded:
        context = stage_context(setting, arguments.folder, f"{bits} bits")
        train(shared, options, context, objective=setting.objective)
        return shared

    line(setting, f"{bits}-bit codebook, tuned, Huffman", tuned, start)
    return bytes_by_kind(shared.module, shared.storage)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["lenet300", "lenet5"])
    parser.add_argument("--models", type=Path, help="folder of the CIFAR checkpoints")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 images")
    parser.add_argument("--ratio", type=float, default=0.8, help="share of weights removed of networks without a table")
    parser.add_argument("--saliency", default="magnitude", help="how single weights are ranked")
    parser.add_argument("--allocation", default="global", help="how pruning spreads the ratio over layers")
    parser.add_argument("--recover", default="finetune", choices=["finetune", "kd"], help="kd: the start as teacher")
    parser.add_argument("--train-limit", type=int, help="use only this many training images")
    parser.add_argument("--rows", type=Path, help="file that keeps finished rows")
    parser.add_argument("--folder", type=Path, help="folder that keeps the state of training")
    parser.add_argument("--epochs", type=float, default=30, help="epochs to train a LeNet")
    parser.add_argument("--tune-epochs", type=float, default=15, help="epochs after pruning and after sharing")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--grad-clip", type=float, help="largest gradient norm")
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
        tuning = {"epochs": arguments.tune_epochs, "lr": arguments.lr, "batch_size": arguments.batch}
        tuning |= {"recover": arguments.recover, "train_limit": arguments.train_limit, "grad_clip": arguments.grad_clip}
        key = f"{net}, {PRUNED.get(net, arguments.ratio)} by {arguments.saliency} {arguments.allocation}, {tuning}"
        original = loaded.clone()
        objective = distill_objective(original.module) if arguments.recover == "kd" else None
        context = replace(context, original=original)
        compress(Setting(net, Rows(arguments.rows), key, context, tuning, objective), loaded, arguments)


if __name__ == "__main__":
    main()
