"""Error, cost and latency of every kind on the shapes of ImageNet networks, with random weights.

    python benchmarks/decomposition/decomposition_shapes.py --models vgg16 resnet50

Random weights have flat spectra: the mean relative error of the layers is what a kind loses where nothing is redundant,
far above what it loses on trained weights. Parameters, MACs and measured latency are those of a trained model.
Fully connected layers of more than 20 million weights are left out to keep the run short.
"""

from __future__ import annotations

import argparse
import platform
import time
from itertools import product

import torch

from compresskit.analysis.measure.latency import latency_ab
from compresskit.analysis.measure.measure import macs, parameter_count
from compresskit.artifact.source import load_model
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.training.context import Context

SKIP = {"vgg16": ["classifier.*"], "resnet50": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet50"])
    parser.add_argument(
        "--kinds", nargs="+", default=["channel-svd", "input-svd", "spatial-svd", "tucker2", "tensor-train"]
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5])
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, batch 1, 224 x 224")
    print(
        "| model | kind | error | MACs | parameters | speed-up | seconds |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in arguments.models[:1] if arguments.quick else arguments.models:
        original = load_model(f"torchvision:{name}")
        base_macs, base_params = macs(original.module, original.example), parameter_count(original.module)
        kinds = arguments.kinds[:1] if arguments.quick else arguments.kinds
        for kind, ratio in product(kinds, arguments.ratios):
            loaded, begin = original.clone(), time.perf_counter()
            chosen = {"kind": kind, "keep_ratio": ratio, "round_to": arguments.round_to, "slower_layers": "allow"}
            facts = decompose(loaded, DecomposeOptions(**chosen, skip=SKIP.get(name, [])), Context(original)).facts
            seconds = time.perf_counter() - begin
            speed = latency_ab(original.module, loaded.module, original.example, rounds=6)
            shares = [macs(loaded.module, original.example) / base_macs, parameter_count(loaded.module) / base_params]
            print(
                f"| {name} | {kind} | {facts['mean_relative_error']:.3f} | {shares[0]:.3f} | {shares[1]:.3f} "
                f"| {speed.speedup:.2f} ({speed.speedup_low:.2f}-{speed.speedup_high:.2f}) | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
