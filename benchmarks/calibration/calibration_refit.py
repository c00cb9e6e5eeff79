"""Time and accuracy of `reconstruct: sequential` over depth, and of other work that stands on calibration statistics.

    # ResNet-20, -56, -110: CPU seconds of the refit alone
    python benchmarks/calibration/calibration_refit.py depth
    # trained ResNets: top-1, CPU seconds, peak MiB
    python benchmarks/calibration/calibration_refit.py accuracy ROW [DEPTH [SEEDS]]

The models' weights and the images are those of ../shared (10,000 test images; CIFAR=FOLDER names the unpacked zip);
in `depth` all weights are random.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

import torch

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured import prune as pruning
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = f"imagefolder:{os.environ.get('CIFAR', SHARED / 'data' / 'cifar10')}"
#: row -> (technique, options)
ROWS = {
    "refit": ("prune", {"target_macs": "50%", "criterion": "reconstruction", "reconstruct": "sequential"}),
    "sparsegpt": ("prune", {"granularity": "weight", "ratio": 0.7, "saliency": "sparsegpt"}),
    "sparsegpt 2:4": ("prune", {"granularity": "n:m", "pattern": "2:4", "saliency": "sparsegpt"}),
    "wanda": ("prune", {"granularity": "weight", "ratio": 0.5, "saliency": "wanda"}),
    "gptq int4": ("quantize", {"scheme": "int4-weight", "rounding": "gptq"}),
    "gptq 3 bits": ("quantize", {"scheme": "int4-weight", "bits": 3, "rounding": "gptq"}),
    "awq int4": ("quantize", {"scheme": "int4-weight", "awq": True}),
    "awq and gptq 3 bits": ("quantize", {"scheme": "int4-weight", "bits": 3, "awq": True, "rounding": "gptq"}),
    "smooth int8": ("quantize", {"scheme": "int8-static", "smooth": 0.5}),
    "bias correction 3 bits": ("quantize", {"scheme": "int4-weight", "bits": 3, "bias_correction": True}),
}


def refit_seconds(name: str, weights: str | None, samples: int) -> tuple[float, int]:
    """CPU seconds that the refit takes after half the channels went, and how many layers it has."""
    loaded = load_model(name, weights=weights)
    data = open_data(DATA, loaded.preprocessing)
    options = PruneOptions(ratio=0.5, reconstruct="sequential", samples=samples)
    taken = []
    inner = pruning.refit_after_cut

    def timed(*args):
        begun = time.process_time()
        count = inner(*args)
        taken.append(time.process_time() - begun)
        return count

    pruning.refit_after_cut = timed
    try:
        result = pruning.prune(loaded, options, Context(loaded.clone(), data=data))
    finally:
        pruning.refit_after_cut = inner
    return taken[0], result.facts["layers_refitted"]


def accuracy(loaded, data) -> float:
    right = total = 0
    with torch.no_grad():
        for images, labels in data.batches("test", batch_size=500):
            right += int((loaded.module(images).argmax(1) == labels).sum())
            total += len(labels)
    return 100 * right / total


def main() -> None:
    torch.manual_seed(0)
    if sys.argv[1] == "depth":
        samples = int(sys.argv[2]) if len(sys.argv) > 2 else 512
        for depth in (20, 56, 110):
            seconds, layers = refit_seconds(f"builtin:cifar_resnet{depth}", None, samples)
            print(f"| ResNet-{depth} | {samples} | {layers} | {seconds:.1f} | {seconds / layers:.3f} |", flush=True)
        return
    technique, given = ROWS[sys.argv[2]]
    for depth in [int(sys.argv[3])] if len(sys.argv) > 3 else (20, 56):
        loaded = load_model(
            f"builtin:cifar_resnet{depth}", weights=str(SHARED / f"models/resnet{depth}_cifar10.safetensors")
        )
        data = open_data(DATA, loaded.preprocessing)
        for seed in range(int(sys.argv[4]) if len(sys.argv) > 4 else 3):
            changed, begun = loaded.clone(), time.process_time()
            context = Context(loaded.clone(), data=data, seed=seed)
            if technique == "prune":
                pruning.prune(changed, PruneOptions(**given), context)
            else:
                quantize(changed, QuantizeOptions(**given), context)
            seconds = time.process_time() - begun
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"| {sys.argv[2]} | ResNet-{depth} | {seed} | {accuracy(changed, data):.2f} | {seconds:.1f} "
                  f"| {peak:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
