"""Accuracy at a share of the MACs: kinds, plain against data-aware, uniform against budgeted; before, after training.

    python benchmarks/decomposition/decomposition_accuracy.py --model resnet56 --cifar /path/to/cifar --peer tucker
    python benchmarks/decomposition/decomposition_accuracy.py --model resnet20 --cifar PATH --train 50000 \
        --recover finetune kd
    python benchmarks/decomposition/decomposition_accuracy.py --model vgg --weights vgg.safetensors --cifar \
        PATH --rows latency

The uniform rows, and those that say so, may make layers slower; the others may not, which is the step's default.
The uniform rows give every layer the same share of its MACs, found by bisection so that the whole model meets the
target. The peer is tensorly-torch (FactorizedConv from each convolution, one rank share for all, found the same way).
Weights for --model vgg come from decomposition_checkpoint.py. A finished row is kept in the file of runs and not run
again.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from compresskit.analysis.measure.latency import latency_ab, take_turns
from compresskit.analysis.measure.measure import macs, parameter_count
from compresskit.artifact.source import load_model
from compresskit.core.errors import CompresskitError
from compresskit.core.tensors.modules import set_module
from compresskit.core.types import Loaded, call
from compresskit.data.dataset import open_data
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.distillation.distill import recover_objective
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
MODELS = {
    "resnet20": ("builtin:cifar_resnet20", {}, SHARED / "resnet20_cifar10.safetensors"),
    "resnet56": ("builtin:cifar_resnet56", {}, SHARED / "resnet56_cifar10.safetensors"),
    "vgg": ("builtin:cifar_vgg", {"width": 32}, None),
}
KINDS = ("channel-svd", "input-svd", "spatial-svd", "tucker2", "cp", "tensor-train")
FREE = {"slower_layers": "allow"}  # MACs alone decide
SVD = {"kind": "channel-svd"}
DATA = {**SVD, "objective": "activation"}
LATENCY = 0.8  # share of the measured latency that the latency rows ask for
QUICK = ("uniform channel-svd, weights", "budgeted channel-svd, data-aware")


def rows_for(target: float) -> list[tuple[str, dict]]:
    """(name, options) of each row; `ratio` None stands for the uniform share that meets the target."""
    budget = {"target_macs": target}
    aware, stepwise = {**DATA, **budget}, {**SVD, **budget, "inputs": "compressed"}
    return [
        *((f"uniform {kind}, weights", {"kind": kind, "keep_ratio": None, **FREE}) for kind in KINDS),
        ("uniform channel-svd, data-aware", {**DATA, "keep_ratio": None, **FREE}),
        ("budgeted channel-svd, weights", {**SVD, **budget}),
        ("budgeted channel-svd, data-aware", aware),
        ("budgeted channel-svd, data-aware, asymmetric", {**aware, "inputs": "compressed"}),
        ("budgeted channel-svd, behind the ReLU, asymmetric", {**stepwise, "objective": "nonlinear"}),
        ("budgeted mixed kinds, weights", budget),
        ("budgeted mixed kinds, data-aware", {**budget, "objective": "activation"}),
        ("budgeted mixed kinds, data-aware, asymmetric", {**budget, "objective": "activation", "inputs": "compressed"}),
        ("budgeted mixed kinds, data-aware, slower layers allowed", {**budget, "objective": "activation", **FREE}),
        ("budgeted channel-svd, data-aware, latency", {**DATA, "target_latency": LATENCY}),
        ("budgeted mixed kinds, data-aware, latency", {"objective": "activation", "target_latency": LATENCY}),
    ]


def run(original: Loaded, options: dict, context: Context, target: float) -> tuple[Loaded, dict]:
    """The decomposed model and the step's facts; a uniform ratio of None is bisected to meet the target."""
    if options.get("keep_ratio", 0.0) is not None:
        loaded = original.clone()
        return loaded, decompose(loaded, DecomposeOptions(**options), context).facts
    low, high, best = 0.02, 0.98, None
    for _ in range(4):
        middle = (low + high) / 2 if best else target
        loaded = original.clone()
        share = decompose(loaded, DecomposeOptions(**{**options, "keep_ratio": middle}), context).facts["macs_share"]
        low, high = (middle, high) if share <= target else (low, middle)
        if share <= target and (best is None or share > best[0]):
            best = (share, loaded)
        if share <= target and share > target - 0.02:
            break
    return best[1] if best else loaded, {}


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


class Bench:
    """One model with its data and baseline figures, and the rows measured so far.

    Args:
        arguments: of the command line.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        string, model_args, weights = MODELS[arguments.model]
        self.original = load_model(string, weights=str(arguments.weights or weights), model_args=model_args)
        data = open_data(f"imagefolder:{arguments.cifar}", self.original.preprocessing)
        self.metric = make_metric("top1")
        self.context = Context(original=self.original, data=data, metric=self.metric)
        self.test = data.batches("test", batch_size=250, limit=arguments.test_limit)
        self.macs = macs(self.original.module, self.original.example)
        self.params = parameter_count(self.original.module)
        self.settings = [arguments.model, arguments.target, arguments.test_limit, arguments.train]
        if arguments.train:
            self.settings += [arguments.lr, *arguments.augment]
        runs = arguments.runs
        rows = [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []
        self.rows = [row for row in rows if row["settings"] == self.settings]

    def measure(self, name: str, make) -> None:
        """Add one row: `make()` gives (model, facts)."""
        if any(row["name"] == name for row in self.rows):
            return
        begin = time.perf_counter()
        try:
            loaded, facts = make()
        except CompresskitError as error:
            row = {"name": name, "error": str(error)}
        else:
            row = {"name": name, "seconds": time.perf_counter() - begin, **self.figures(loaded, facts)}
        row["settings"] = self.settings
        self.rows.append(row)
        print(row, flush=True)
        with open(self.arguments.runs, "a") as file:
            file.write(json.dumps(row) + "\n")

    def figures(self, loaded: Loaded, facts: dict) -> dict:
        """What is measured of one model, before and after training."""
        module, original = loaded.module, self.original
        latency = latency_ab(original.module, module, original.example, rounds=8)
        before, after = take_turns([lambda one=one: call(one, original.example) for one in (original.module, module)])
        figures = {
            "macs": macs(module, original.example) / self.macs, "params": parameter_count(module) / self.params,
            "top1": self.metric(module, self.test).value, "predicted_latency": facts.get("latency_share_predicted"),
            "speedup": [latency.speedup, latency.speedup_low, latency.speedup_high],
            "best_speedup": before.best_ms / after.best_ms,
            "trained": {},
        }  # fmt: skip
        if self.arguments.train:
            given = self.arguments
            options = TrainOptions(epochs=1, lr=given.lr, train_limit=given.train, keep="last", augment=given.augment)
            for way in given.recover:
                student = loaded.clone() if loaded.edits else loaded
                objective = recover_objective(self.context, options) if way == "kd" else None
                train(student, options, self.context, objective=objective)
                figures["trained"][way] = self.metric(student.module, self.test).value
        return figures

    def table(self) -> list[str]:
        """The rows as Markdown."""
        ways = list(dict.fromkeys(way for row in self.rows for way in row.get("trained", {})))
        heads = ["method", "MACs", "parameters", "top-1", *(f"after one pass, {way}" for way in ways)]
        heads += ["speed-up predicted", "speed-up", "of processor time", "seconds"]
        lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
        for row in self.rows:
            if "error" in row:
                lines.append(f"| {row['name']} | {row['error']} |" + " |" * (len(heads) - 2))
                continue
            middle, low, high = row["speedup"]
            predicted = f"{1 / row['predicted_latency']:.2f}" if row["predicted_latency"] else ""
            cells = [row["name"], f"{row['macs']:.3f}", f"{row['params']:.3f}", f"{row['top1']:.4f}"]
            cells += [f"{row['trained'][way]:.4f}" if way in row["trained"] else "" for way in ways]
            best = f"{row['best_speedup']:.2f}" if "best_speedup" in row else ""
            cells += [predicted, f"{middle:.2f} ({low:.2f}-{high:.2f})", best, f"{row['seconds']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
        return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--weights")
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--test-limit", type=int, default=2000)
    parser.add_argument("--rows", nargs="*", help="only rows whose name contains one of these", default=[""])
    parser.add_argument("--train", type=int, help="also train each row for one pass over so many images", default=0)
    parser.add_argument("--recover", nargs="+", choices=["finetune", "kd"], default=["finetune"])
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--augment", nargs="*", default=[], help="such as crop flip")
    parser.add_argument(
        "--peer", nargs="*", choices=["tucker", "cp", "tt"], default=[], help="factorizations to compare"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("decomposition_accuracy.jsonl"), help="finished rows, one a line"
    )
    parser.add_argument("--quick", action="store_true", help="two rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments)
    original = bench.original
    for name, options in rows_for(arguments.target):
        if name in QUICK if arguments.quick else any(part in name for part in arguments.rows):
            bench.measure(name, lambda options=options: run(original, options, bench.context, arguments.target))
    for factorization in arguments.peer:

        def factorized(factorization: str = factorization) -> tuple[Loaded, dict]:
            module = peer(original, factorization, arguments.target)
            return Loaded(module, {}, original.example, preprocessing=original.preprocessing), {}

        bench.measure(f"tensorly-torch {factorization}, uniform", factorized)
    accuracy = bench.metric(original.module, bench.test).value
    print(f"{arguments.model}: {bench.macs:,} MACs, top-1 {accuracy:.4f} of {arguments.test_limit} images; "
          f"torch {torch.__version__}, {platform.machine()}, 1 thread\n")  # fmt: skip
    print("\n".join(bench.table()))


if __name__ == "__main__":
    main()
