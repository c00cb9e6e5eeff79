"""Accuracy at a share of the MACs, before any training: kinds, plain against data-aware, uniform against budgeted.

    python benchmarks/decomposition_accuracy.py --model resnet56 --cifar /path/to/cifar
    python benchmarks/decomposition_accuracy.py --model vgg --weights vgg.safetensors --cifar PATH --peer tucker

The uniform rows give every layer the same share of its MACs, found by bisection so that the whole model meets the
target. The peer is tensorly-torch (FactorizedConv from each convolution, one rank share for all, found the same way).
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from compresskit.core.data import open_data
from compresskit.core.errors import CompresskitError
from compresskit.core.measure import latency_ab, macs, parameter_count
from compresskit.core.metrics import make_metric
from compresskit.core.modules import set_module
from compresskit.core.options import TrainOptions
from compresskit.core.source import load_model
from compresskit.core.train import train
from compresskit.core.types import Context, Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"
MODELS = {
    "resnet20": ("builtin:cifar_resnet20", {}, SHARED / "resnet20_cifar10.safetensors"),
    "resnet56": ("builtin:cifar_resnet56", {}, SHARED / "resnet56_cifar10.safetensors"),
    "vgg": ("builtin:cifar_vgg", {"width": 32}, None),
}
KINDS = ("channel-svd", "input-svd", "spatial-svd", "tucker2", "cp", "tensor-train")
SVD = {"kind": "channel-svd"}
DATA = {**SVD, "objective": "activation"}


def rows_for(target: float, quick: bool) -> list[tuple[str, dict]]:
    """(name, options) of each row; `ratio` None stands for the uniform share that meets the target."""
    rows = [(f"uniform {kind}, weights", {"kind": kind, "ratio": None}) for kind in (KINDS[:1] if quick else KINDS)]
    rows += [
        ("uniform channel-svd, data-aware", {**DATA, "ratio": None}),
        ("budgeted channel-svd, weights", {**SVD, "target_macs": target}),
        ("budgeted channel-svd, data-aware", {**DATA, "target_macs": target}),
        ("budgeted channel-svd, data-aware, asymmetric", {**DATA, "target_macs": target, "inputs": "compressed"}),
    ]
    if quick:
        return rows
    return [
        *rows,
        (
            "budgeted channel-svd, behind the ReLU, asymmetric",
            {**SVD, "target_macs": target, "objective": "nonlinear", "inputs": "compressed"},
        ),
        ("budgeted mixed kinds, weights", {"target_macs": target}),
        ("budgeted mixed kinds, data-aware", {"target_macs": target, "objective": "activation"}),
    ]


def run(original: Loaded, options: dict, context: Context, target: float) -> tuple[Loaded, float]:
    """The decomposed model and the seconds it took; a uniform ratio of None is bisected to meet the target."""
    begin = time.perf_counter()
    if "ratio" not in options or options["ratio"] is not None:
        loaded = original.clone()
        decompose(loaded, DecomposeOptions(**options), context)
        return loaded, time.perf_counter() - begin
    low, high, best = 0.02, 0.98, None
    for _ in range(4):
        middle = (low + high) / 2 if best else target
        loaded = original.clone()
        share = decompose(loaded, DecomposeOptions(**{**options, "ratio": middle}), context).facts["macs_share"]
        low, high = (middle, high) if share <= target else (low, middle)
        if share <= target and (best is None or share > best[0]):
            best = (share, loaded)
        if share <= target and share > target - 0.02:
            break
    return best[1] if best else loaded, time.perf_counter() - begin


def peer(original: Loaded, factorization: str, target: float) -> nn.Module:
    """The model with all convolutions but the first factorized by tensorly-torch, each at one share of its rank."""
    import tltorch

    whole = macs(original.module, original.example)
    low, high, best = 0.02, 0.98, None
    for _ in range(6):
        middle = (low + high) / 2
        module = copy.deepcopy(original.module)
        convolutions = [(n, m) for n, m in module.named_modules() if type(m) is nn.Conv2d and m.in_channels > 3]
        for name, layer in convolutions:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                options = {"rank": middle, "factorization": factorization, "implementation": "factorized"}
                set_module(module, name, tltorch.FactorizedConv.from_conv(layer, **options))
        share = macs(module, original.example) / whole
        low, high = (middle, high) if share <= target else (low, middle)
        if share <= target:
            best = module
    return best.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--weights")
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--rows", help="only rows whose name contains this", default="")
    parser.add_argument("--train", type=int, help="also train each row for one epoch of this many images", default=0)
    parser.add_argument(
        "--peer", nargs="*", choices=["tucker", "cp", "tt"], default=[], help="factorizations to compare"
    )
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    string, model_args, weights = MODELS[arguments.model]
    original = load_model(string, weights=str(arguments.weights or weights), model_args=model_args)
    data, metric = open_data(f"imagefolder:{arguments.cifar}", original.preprocessing), make_metric("top1")
    context = Context(original=original, data=data, metric=metric)
    test = data.batches("test", batch_size=250, limit=arguments.test_limit)
    whole_macs, whole_params = macs(original.module, original.example), parameter_count(original.module)
    print(f"{arguments.model}: {whole_macs:,} MACs, top-1 {metric(original.module, test).value:.4f} "
          f"of {arguments.test_limit} images; torch {torch.__version__}, {platform.machine()}, 1 thread")  # fmt: skip
    print("| method | MACs | parameters | top-1 | after one epoch | speed-up | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)

    def show(name: str, loaded: Loaded, seconds: float) -> None:
        module = loaded.module
        accuracy = metric(module, test).value
        latency = latency_ab(original.module, module, original.example, rounds=8)
        trained = ""
        if arguments.train:
            options = TrainOptions(
                epochs=1, lr=0.01, train_limit=arguments.train, keep="last", augment=["crop", "flip"]
            )
            train(loaded, options, context)
            trained = f"{metric(module, test).value:.4f}"
        shares = f"{macs(module, original.example) / whole_macs:.3f} | {parameter_count(module) / whole_params:.3f}"
        speedup = f"{latency.speedup:.2f} ({latency.speedup_low:.2f}-{latency.speedup_high:.2f})"
        print(f"| {name} | {shares} | {accuracy:.4f} | {trained} | {speedup} | {seconds:.0f} |", flush=True)

    for name, options in rows_for(arguments.target, arguments.quick):
        if arguments.rows in name:
            try:
                show(name, *run(original, options, context, arguments.target))
            except CompresskitError as error:
                print(f"| {name} | {error} |", flush=True)
    for factorization in arguments.peer:
        begin = time.perf_counter()
        module = peer(original, factorization, arguments.target)
        loaded = Loaded(module, {}, original.example, preprocessing=original.preprocessing)
        show(f"tensorly-torch {factorization}, uniform", loaded, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
