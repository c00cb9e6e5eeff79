"""Low bits, fewer MACs, zeros and low ranks on CIFAR-10 ResNets with and without block reconstruction; no labels.

    python benchmarks/calibration/block_reconstruction.py --data imagefolder:DIR --models ../shared/models \
        --net 20 --rows w2 w4a4

Each row is one call of the technique with 2,048 unlabelled training images; top-1 on the test images (all, or --limit),
mean and range over --seeds, with minutes of processor time, minutes that passed, and the peak memory of the process
so far: run a row alone to have its own. --stages also says what single blocks gave, before all are tuned at once; the
minutes then hold one pass over the test images more.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import Data, open_data
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.evaluation.metrics import make_metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.search.options import SearchOptions
from compresskit.search.search import search
from compresskit.training.context import Context

_TECHNIQUES = {
    "quantize": (quantize, QuantizeOptions),
    "prune": (prune, PruneOptions),
    "decompose": (decompose, DecomposeOptions),
    "search": (search, SearchOptions),
}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "w2": ("quantize", {"scheme": "int2-weight"}),
    "w3": ("quantize", {"scheme": "int3-weight"}),
    "w4": ("quantize", {"scheme": "int4-weight"}),
    "w4a8": ("quantize", {"scheme": "w4a8"}),
    "w4a4": ("quantize", {"scheme": "w4a4"}),
    "w2a4": ("quantize", {"scheme": "w2a4"}),
    "half": ("prune", {"target_macs": 0.5}),
    "half-local": ("prune", {"target_macs": 0.5, "scope": "local"}),
    "zeros70": ("prune", {"granularity": "weight", "ratio": 0.7, "saliency": "sparsegpt"}),
    "zeros80": ("prune", {"granularity": "weight", "ratio": 0.8, "saliency": "sparsegpt"}),
    "zeros90": ("prune", {"granularity": "weight", "ratio": 0.9, "saliency": "sparsegpt"}),
    "2:4": ("prune", {"granularity": "n:m", "saliency": "sparsegpt"}),
    "ranks": ("decompose", {"target_macs": 0.5, "kind": "channel-svd", "objective": "activation"}),
    "ranks-kfac": ("decompose", {"target_macs": 0.5, "kind": "channel-svd", "objective": "kfac"}),
    "kinds": ("decompose", {"target_macs": 0.5}),
    "kinds-kfac": ("decompose", {"target_macs": 0.5, "objective": "kfac"}),
    "search": ("search", {"target_macs": 0.5, "seconds": 120}),
    "search2.55x": ("search", {"target_macs": 1 / 2.55, "seconds": 120}),
    "prune2.55x": ("prune", {"target_macs": 1 / 2.55}),
}


@torch.inference_mode()
def top1(loaded: Loaded, test: list) -> float:
    """Share of right answers, in percent."""
    device = next(loaded.module.parameters()).device
    test = [(inputs.to(device), targets.to(device)) for inputs, targets in test]
    right = sum(int((loaded.module.eval()(inputs).argmax(1) == targets).sum()) for inputs, targets in test)
    return 100 * right / sum(len(targets) for _, targets in test)


def log(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def lines(
    loaded: Loaded, data: Data, test: list, names: list[str], seeds: list[int], common: dict, *, stages: bool
) -> Iterator[str]:
    """A line of the table for each row."""
    device = next(loaded.module.parameters()).device
    whole = top1(loaded, test)
    for name in names:
        technique, options = ROWS[name]
        function, model = _TECHNIQUES[technique]
        found, seconds, passed = [], 0.0, 0.0
        for seed in seeds:
            copied, started, began = loaded.clone(), time.process_time(), time.perf_counter()
            own = {name: value for name, value in common.items() if name in model.model_fields}
            same = make_metric("agreement", original=loaded.module)  # reads no labels, like all else here

            def watch(line: str, copied: Loaded = copied, name: str = name, seed: int = seed) -> None:
                log(line)
                if stages and re.match(r"reconstructing .*\((\d+) of \1\)", line):
                    print(f"<!-- {name} seed {seed}, single blocks: {top1(copied, test) - whole:+.2f} -->", flush=True)

            context = Context(loaded, data=data, metric=same, seed=seed, device=device, log=watch)
            made = function(copied, model(**options, **own), context).loaded
            seconds, passed = seconds + time.process_time() - started, passed + time.perf_counter() - began
            found.append(top1(made, test) - whole)
            print(f"<!-- {name} seed {seed}: {found[-1]:+.2f} -->", flush=True)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield (
            f"| {name} | {common.get('reconstruct', 'auto')} | {sum(found) / len(found):+.2f} | {min(found):+.2f} .. "
            f"{max(found):+.2f} | {seconds / 60 / len(seeds):.1f} | {passed / 60 / len(seeds):.1f} | {peak_mb:,.0f} |"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--net", default="20", choices=["20", "56"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, help="use only this many test images")
    parser.add_argument("--reconstruct", help="in the place of block: auto, none")
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--joint-iterations", type=int, help="of rows that are pruned or decomposed")
    parser.add_argument("--stages", action="store_true", help="say what single blocks gave, too")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(
        f"builtin:cifar_resnet{arguments.net}", weights=f"{arguments.models}/resnet{arguments.net}_cifar10.safetensors"
    )
    loaded.module.to(arguments.device)
    data = open_data(arguments.data, loaded.preprocessing)
    test = list(data.batches("test", batch_size=250, limit=arguments.limit))
    common: dict[str, Any] = {"reconstruct": arguments.reconstruct or "block"}
    if arguments.iterations:
        common["iterations"] = arguments.iterations
    if arguments.joint_iterations is not None:
        common["joint_iterations"] = arguments.joint_iterations
    images = sum(len(targets) for _, targets in test)
    print(
        f"ResNet-{arguments.net}, {images:,} test images, float {top1(loaded, test):.2f}; "
        f"seeds {arguments.seeds}; torch {torch.__version__}\n", flush=True,
    )
    print("| row | reconstruct | points of top-1 | range | processor minutes | minutes | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for line in lines(loaded, data, test, arguments.rows, arguments.seeds, common, stages=arguments.stages):
        print(line, flush=True)


if __name__ == "__main__":
    main()
