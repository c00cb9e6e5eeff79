"""ResNet-56 on CIFAR-10 at 50 % of the multiply-accumulates, without training: what each stage of mending brings.

    python benchmarks/pruning/pruning_resnet56.py --data imagefolder:DIR --weights \
        ../shared/models/resnet56_cifar10.safetensors

Beside it, Torch-Pruning's best criteria, limited to channels inside blocks (it cannot follow padded shortcuts).
Accuracy is top-1 on the first test images; calibration takes 2,048 training images. The ridge of the reconstruction is
chosen for each row on held-out training images, never on test images.
`distillation_recovery.py` trains the best row on.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.batchnorm import estimate_batchnorm
from compresskit.training.context import Context

RIDGES = (1e-3, 1e-2, 1e-1)
INNER = ["conv1", "layer2.0.conv2", "layer3.0.conv2"]
RUNS = {
    "L2, local, inside blocks": {"criterion": "l2", "protect": INNER},
    "L2, local, shortcuts too": {"criterion": "l2"},
    "reconstruction, inside blocks": {
        "criterion": "reconstruction", "scope": "global", "normalize": "macs", "protect": INNER,
    },
    "reconstruction, inside blocks, refitted layer by layer": {
        "criterion": "reconstruction", "scope": "global", "normalize": "macs", "protect": INNER,
        "reconstruct": "sequential",
    },
    "reconstruction-loss, shortcuts too": {"criterion": "reconstruction-loss", "scope": "global", "normalize": "macs"},
}  # fmt: skip


@torch.no_grad()
def top1(module: nn.Module, batches: list) -> float:
    """Share of right answers."""
    module.eval()
    right = sum(int((module(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


def peer(loaded, data, calibration: list, test: list, kind: str) -> tuple[float, float]:
    """Torch-Pruning to 50 % of the MACs inside blocks: (after the cut, after BatchNorm)."""
    import torch_pruning as tp

    module = copy.deepcopy(loaded.module)
    inside = {m for n, m in module.named_modules() if n.endswith("conv1") and n != "conv1"}
    ignored = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in inside]
    importance = tp.importance.MagnitudeImportance(2) if kind == "L2, local" else tp.importance.TaylorImportance()
    whole, _ = tp.utils.count_ops_and_params(module, loaded.example)
    pruner = tp.pruner.BasePruner(
        module, loaded.example, importance=importance, pruning_ratio=0.95 if kind != "L2, local" else 0.6, iterative_steps=60,  # noqa: E501
        global_pruning=kind != "L2, local", ignored_layers=ignored, max_pruning_ratio=0.9, round_to=None,
    )  # fmt: skip
    inputs, targets = next(iter(data.batches("train", batch_size=512, shuffle=True)))
    while tp.utils.count_ops_and_params(module, loaded.example)[0] > 0.5 * whole:
        if kind != "L2, local":
            module.zero_grad()
            nn.functional.cross_entropy(module(inputs), targets).backward()
        before = tp.utils.count_ops_and_params(module, loaded.example)[0]
        pruner.step()
        if tp.utils.count_ops_and_params(module, loaded.example)[0] == before and pruner.current_step >= 60:
            break
    cut = top1(module, test)
    estimate_batchnorm(module, calibration)
    return cut, top1(module, test)


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--quick", action="store_true", help="512 calibration and 1,000 test images")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--only", help="run only rows whose name contains this")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model("builtin:cifar_resnet56", weights=arguments.weights)
    data = open_data(arguments.data, loaded.preprocessing)
    samples, images = (512, 1000) if arguments.quick else (2048, 4000)
    test = list(data.batches("test", batch_size=250, limit=images))
    calibration = data.calibration(samples, batch_size=128)
    lines = [
        "# ResNet-56, CIFAR-10, 50 % of the MACs, no training",
        "",
        f"`python benchmarks/pruning/pruning_resnet56.py --data imagefolder:DIR --weights resnet56_cifar10.safetensors"
        f"{' --quick' if arguments.quick else ''}`, torch {torch.__version__}; {samples} calibration images, "
        f"{images} test images; uncut: {top1(loaded.module, test):.2%}",
        "",
        "| what | MACs kept | largest difference | cut | + BatchNorm | + reconstruction and BatchNorm |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for name, options in RUNS.items():
        if arguments.only and arguments.only not in name:
            continue
        row = _ours(loaded, data, options, samples, calibration, test, name)
        lines.append(row)
        print(row, flush=True)
    for kind in () if arguments.no_peer else ("L2, local", "Taylor, global"):
        if arguments.only and arguments.only not in f"Torch-Pruning {kind}":
            continue
        cut, after = peer(loaded, data, calibration, test, kind)
        lines.append(
            f"| Torch-Pruning {kind}, inside blocks | 50.0% | not checked | {cut:.2%} | {after:.2%} | not offered |"
        )
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


def _ours(loaded, data, row: dict, samples: int, calibration: list, test: list, name: str) -> str:
    common = {"target_macs": 0.5, "round_to": 1, "samples": samples, **row}
    reconstruct = common.pop("reconstruct", "inputs")
    cut = loaded.clone()
    result = prune(cut, PruneOptions(**common, recalibrate="never"), Context(loaded, data=data))
    after_cut = top1(cut.module, test)
    estimate_batchnorm(cut.module, calibration)
    after_norm = top1(cut.module, test)
    ridges = {}
    for ridge in RIDGES:
        mended = loaded.clone()
        options = PruneOptions(**common, reconstruct=reconstruct, ridge=ridge)
        prune(mended, options, Context(loaded, data=data))
        held_out = top1(mended.module, list(data.batches("val", batch_size=250, limit=2000)))
        ridges[ridge] = (held_out, mended)
    ridge = max(ridges, key=lambda one: ridges[one][0])
    mended = ridges[ridge][1]
    return (
        f"| {name} | {result.facts['macs_kept']:.1%} | {result.facts['largest_difference']:.0e} | {after_cut:.2%} | "
        f"{after_norm:.2%} | {top1(mended.module, test):.2%} (ridge {ridge:g}) |"
    )


if __name__ == "__main__":
    main()
