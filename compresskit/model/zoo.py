"""Small models that come with the package: CIFAR ResNets, LeNets, and networks for the 8x8 digits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PaddedShortcut(nn.Module):
    """Parameter-free shortcut ("option A"): stride in space, zero-pad in channels.

    The pads are attributes, so that pruning can change how many channels stand on each side.
    """

    def __init__(self, pad_before: int, pad_after: int, stride: int):
        super().__init__()
        self.pad_before = pad_before
        self.pad_after = pad_after
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad_before, self.pad_after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, with or without a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, residual: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        grown = out_channels - in_channels
        self.shortcut: nn.Module | None
        if not residual:
            self.shortcut = None
        elif stride != 1 or grown:
            self.shortcut = PaddedShortcut(grown // 2, grown - grown // 2, stride)
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y if self.shortcut is None else y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network for 32x32 images (He et al., "Deep Residual Learning", 2015, section 4.2)."""

    input_shape = (3, 32, 32)
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(self, blocks: int, num_classes: int = 10, width: int = 16, residual: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        stages = []
        for out_channels, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
            stage = []
            for index in range(blocks):
                stage.append(BasicBlock(channels, out_channels, stride if index == 0 else 1, residual))
                channels = out_channels
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class ConvNet(nn.Sequential):
    """Convolution, BatchNorm, ReLU units, then global average pooling and a linear classifier.

    Args:
        widths: out_channels of each 3x3 convolution; 0 stands for a 2x2 max pooling.
        num_classes: size of the output.
        input_shape: (channels, height, width).
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __init__(self, widths: tuple[int, ...], num_classes: int, input_shape: tuple[int, int, int]):
        layers: list[nn.Module] = []
        channels = input_shape[0]
        for width in widths:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
        super().__init__(*layers)
        self.input_shape = input_shape


class LeNet5(nn.Module):
    """LeNet-5 in the Caffe form that Deep Compression used: 20 and 50 filters, 500 hidden units."""

    def __init__(self, num_classes: int = 10, size: int = 28, channels: int = 1):
        super().__init__()
        self.input_shape = (channels, size, size)
        kernel = 5 if size >= 16 else 3
        self.conv1 = nn.Conv2d(channels, 20, kernel)
        self.conv2 = nn.Conv2d(20, 50, kernel, padding=0 if size >= 16 else 1)
        side = ((size - kernel + 1) // 2 - (kernel - 1 if size >= 16 else 0)) // 2
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


class Mlp(nn.Sequential):
    """Fully connected layers with ReLU between them, on flattened input."""

    def __init__(self, widths: tuple[int, ...], input_shape: tuple[int, ...]):
        layers: list[nn.Module] = [nn.Flatten()]
        for in_features, out_features in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(in_features, out_features), nn.ReLU()]
        super().__init__(*layers[:-1])
        self.input_shape = input_shape


def cifar_resnet20(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-20 for CIFAR."""
    return CifarResNet(3, num_classes, width)


def cifar_resnet32(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-32 for CIFAR."""
    return CifarResNet(5, num_classes, width)


def cifar_resnet56(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-56 for CIFAR."""
    return CifarResNet(9, num_classes, width)


def cifar_resnet110(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """ResNet-110 for CIFAR."""
    return CifarResNet(18, num_classes, width)


def cifar_plain20(num_classes: int = 10, width: int = 16) -> CifarResNet:
    """Plain-20: ResNet-20 without its shortcuts."""
    return CifarResNet(3, num_classes, width, residual=False)


def cifar_vgg(num_classes: int = 10, width: int = 64) -> ConvNet:
    """A VGG-like network for 32x32 images: eight convolutions, widths 1, 2, 4 and 8 times `width`."""
    w = width
    net = ConvNet((w, w, 0, 2 * w, 2 * w, 0, 4 * w, 4 * w, 0, 8 * w, 8 * w), num_classes, (3, 32, 32))
    net.mean, net.std = IMAGENET_MEAN, IMAGENET_STD
    return net


def lenet5(num_classes: int = 10, size: int = 28, channels: int = 1) -> LeNet5:
    """LeNet-5 for square images of a given side."""
    return LeNet5(num_classes, size, channels)


def lenet300(num_classes: int = 10, size: int = 28) -> Mlp:
    """LeNet-300-100 for square grey images of a given side."""
    return Mlp((size * size, 300, 100, num_classes), (1, size, size))


def digits_cnn(num_classes: int = 10, width: int = 64) -> ConvNet:
    """Three convolutions for the 8x8 digits; `width` filters, then twice as many."""
    return ConvNet((width, 2 * width, 0, 2 * width), num_classes, (1, 8, 8))


def digits_cnn_small(num_classes: int = 10) -> ConvNet:
    """A quarter as wide as digits_cnn."""
    return digits_cnn(num_classes, width=16)


def digits_mlp(num_classes: int = 10, hidden: int = 256) -> Mlp:
    """Two hidden layers for the 8x8 digits."""
    return Mlp((64, hidden, hidden, num_classes), (1, 8, 8))
