"""Cost and latency of every kind on the shapes of ImageNet networks, with random weights.

    python benchmarks/decomposition_shapes.py --models vgg16 resnet50

Random weights have flat spectra, so errors say nothing here: only that parameters, MACs and measured latency follow.
Fully connected layers of more than 20 million weights are left out to keep the run short.
"""

from __future__ import annotations

import argparse
import platform
import time

import torch

from compresskit.core.measure import latency_ab, macs, parameter_count
from compresskit.core.source import load_model
from compresskit.core.types import Context
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions

SKIP = {"vgg16": ["classifier.*"], "resnet50": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet50"])
    parser.add_argument("--kinds", nargs="+", default=["channel-svd", "spatial-svd", "tucker2", "tensor-train"])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, batch 1, 224 x 224")
    print("| model | kind | MACs | parameters | speed-up | seconds |\n| --- | --- | --- | --- | --- | --- |")
    for name in arguments.models[:1] if arguments.quick else arguments.models:
        original = load_model(f"torchvision:{name}")
        base_macs, base_params = macs(original.module, original.example), parameter_count(original.module)
        for kind in arguments.kinds[:1] if arguments.quick else arguments.kinds:
            loaded, begin = original.clone(), time.perf_counter()
            chosen = {"kind": kind, "ratio": arguments.ratio, "round_to": arguments.round_to}
            decompose(loaded, DecomposeOptions(**chosen, skip=SKIP.get(name, [])), Context(original))
            seconds = time.perf_counter() - begin
            speed = latency_ab(original.module, loaded.module, original.example, rounds=6)
            shares = [macs(loaded.module, original.example) / base_macs, parameter_count(loaded.module) / base_params]
            print(
                f"| {name} | {kind} | {shares[0]:.3f} | {shares[1]:.3f} | {speed.speedup:.2f} "
                f"({speed.speedup_low:.2f}-{speed.speedup_high:.2f}) | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
