"""A small SSD of torchvision that finds digits: trained by its own loss, cut to half its MACs, quantized to int8.

python examples/detection_ssd.py
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

import compresskit


class Backbone(nn.Module):
    """Maps at 1/4, 1/8 and 1/16 of the resolution, named as SSD takes them."""

    def __init__(self, width: int):
        super().__init__()
        self.stages = nn.ModuleList()
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                    nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                )
            )  # fmt: skip
        self.out_channels = channels[2:]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = {}
        for number, stage in enumerate(self.stages):
            images = stage(images)
            if number:
                maps[str(number)] = images
        return maps


def make(width: int = 16, size: int = 64) -> SSD:
    """The detector; ten digits and the background."""
    anchors = DefaultBoxGenerator([[1], [1], [1]], scales=[0.2, 0.3, 0.42, 0.5], steps=[4, 8, 16])
    return SSD(Backbone(width), anchors, (size, size), num_classes=11, image_mean=[0.0] * 3, image_std=[1.0] * 3)


def main(epochs: float = 12, width: int = 16, limit: int = 1600) -> dict[str, float]:
    """Run it; returns mAP by name.

    Args:
        epochs: of the first training; recovery takes a quarter of them.
        width: channels of the first stage.
        limit: training examples, and a quarter of them for the test.
    """
    shared = {"data": "digits-detection", "data_arg": {"train": limit, "test": limit // 4}, "latency_rounds": 0}
    training = {"optimizer": "adamw", "lr": 0.003, "batch_size": 32, "grad_clip": 5.0}
    # one mapping of boxes an image: the task is detection, the loss the model's own, the metric mAP, and recover kd
    # compares the features of matched stages beside the model's own loss
    full = compresskit.train(make(width), epochs=epochs, **training, **shared)
    half = compresskit.prune(full, target_macs=0.5, recover="kd", epochs=epochs / 4, **training, **shared)
    int8 = compresskit.quantize(half, scheme="int8-static", **shared)
    results = {"float": full, "half the MACs": half, "half, int8": int8}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: mAP {value:.4f}")
