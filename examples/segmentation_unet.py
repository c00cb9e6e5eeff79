"""A U-Net that segments digits: trained, cut to half its MACs with two epochs of distillation, and quantized to int8.

python examples/segmentation_unet.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import compresskit


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three resolutions with concatenated skips; (batch, 3, height, width) -> (batch, classes, height, width)."""

    def __init__(self, width: int = 16, classes: int = 11):
        super().__init__()
        self.down1, self.down2, self.down3 = block(3, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.mix2 = block(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.mix1 = block(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        first = self.down1(images)
        second = self.down2(self.pool(first))
        below = self.up2(self.down3(self.pool(second)))
        below = self.up1(self.mix2(torch.cat([below, second], 1)))
        return self.head(self.mix1(torch.cat([below, first], 1)))


def main(epochs: float = 8, width: int = 16, limit: int = 1600) -> dict[str, float]:
    """Run it; returns mIoU by name.

    Args:
        epochs: of the first training; recovery takes a quarter of them.
        width: channels of the first block.
        limit: training examples, and a quarter of them for the test.
    """
    shared = {"data": "digits-segmentation", "data_arg": {"train": limit, "test": limit // 4}, "latency_rounds": 0}
    training = {"optimizer": "adamw", "lr": 0.003, "batch_size": 32}
    # integers of (batch, height, width) against logits of (batch, classes, height, width): the task is segmentation,
    # its loss cross-entropy a pixel, its metric mIoU, and recover kd compares the classes of pixels
    full = compresskit.train(UNet(width), epochs=epochs, **training, **shared)
    half = compresskit.prune(full, target_macs=0.5, recover="kd", epochs=epochs / 4, **training, **shared)
    int8 = compresskit.quantize(half, scheme="int8-static", **shared)
    results = {"float": full, "half the MACs": half, "half, int8": int8}
    return {name: result.report["steps"][-1]["measurement"]["metric"]["value"] for name, result in results.items()}


if __name__ == "__main__":
    for name, value in main().items():
        print(f"{name}: mIoU {value:.4f}")
