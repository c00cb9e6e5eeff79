"""A MobileNetV2 for images of 32 x 32, the model of `defaults.py` that has depthwise convolutions.

python -m compresskit train benchmarks/quantization/mobilenet_cifar.py:make --data imagefolder:DIR \
    --epochs 6 --train-limit 20000 --lr 0.1 --lr-schedule one-cycle --batch-size 64 -o mobilenet
"""

from __future__ import annotations

from torch import nn
from torchvision.models import MobileNetV2

#: expansion, channels, blocks, stride of the first; the stem halves the resolution as the original does
_BLOCKS = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 40, 3, 2], [6, 80, 3, 1], [6, 128, 2, 2]]


def make(width_mult: float = 0.75, classes: int = 10) -> nn.Module:
    """The network; (batch, 3, 32, 32) -> (batch, classes)."""
    return MobileNetV2(num_classes=classes, width_mult=width_mult, inverted_residual_setting=_BLOCKS, dropout=0.0)
