"""Seconds that `decompose --target-macs 0.5` takes, and the error it leaves; weights alone, as without data.

    python benchmarks/decomposition/decompose_speed.py --models vgg11 resnet50 crnn yolov8n
    git worktree add /tmp/before COMMIT && PYTHONPATH=/tmp/before python \
        benchmarks/decomposition/decompose_speed.py --models vgg11

Weights are random where no library brings them. Seconds of the processor stand beside those of the clock, because
other jobs only add to the latter.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import compresskit
from compresskit.artifact.source import load_model
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.training.context import Context


class CRNN(nn.Module):
    """Convolutions over a line of text, then two bidirectional LSTMs: 10 layers with weights to factor."""

    def __init__(self, classes: int = 37):
        super().__init__()
        widths = (1, 64, 128, 256, 256, 512, 512, 512)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            if number in (0, 1, 3, 5):
                layers.append(nn.MaxPool2d((2, 2) if number < 2 else (2, 1)))
        self.features = nn.Sequential(*layers)
        self.first, self.second = (nn.LSTM(size, 256, bidirectional=True, batch_first=True) for size in (1024, 256))
        self.between, self.head = nn.Linear(512, 256), nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, 32, width) -> (batch, width / 4, classes)."""
        x = self.features(x).flatten(1, 2).transpose(1, 2)
        x = self.between(self.first(x)[0])
        return self.head(self.second(x)[0])


def crnn() -> nn.Module:
    """The network above."""
    return CRNN()


SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = {
    "vgg11": ("torchvision:vgg11", None),
    "resnet50": ("torchvision:resnet50", None),
    "crnn": (f"{Path(__file__)}:crnn", ["1,32,128"]),
    "yolov8n": (f"{SHARED}/cases/yolo.py:v8n", ["3,640,640"]),
}


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{Path(compresskit.__file__).parents[1]}; torch {torch.__version__}, {platform.machine()}, 1 thread\n")
    print("| model | seconds | of the processor | MACs | mean relative error | kinds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in given.models:
        string, inputs = MODELS[name]
        loaded = load_model(string, inputs=inputs)
        begin, begin_own = time.perf_counter(), time.process_time()
        facts = decompose(loaded, DecomposeOptions(target_macs=0.5), Context(loaded.clone())).facts
        seconds, own = time.perf_counter() - begin, time.process_time() - begin_own
        kinds = ", ".join(f"{count} {kind}" for kind, count in facts["kinds"].items())
        print(f"| {name} | {seconds:.0f} | {own:.0f} | {facts['macs_share']:.3f} | "
              f"{facts['mean_relative_error']:.3f} | {kinds} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
