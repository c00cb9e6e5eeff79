"""The registry of models that come with the package. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from torch import nn

BUILTINS: Registry[Callable[..., nn.Module]] = Registry(
    "builtin model",
    "compresskit",
    {
        "cifar_resnet20": Row(
            "model.zoo:cifar_resnet20", "CIFAR ResNet, 3 blocks a stage, 0.27 M parameters", "He et al., 2015"
        ),
        "cifar_resnet32": Row("model.zoo:cifar_resnet32", "CIFAR ResNet, 5 blocks a stage", "He et al., 2015"),
        "cifar_resnet56": Row(
            "model.zoo:cifar_resnet56", "CIFAR ResNet, 9 blocks a stage, 0.86 M parameters", "He et al., 2015"
        ),
        "cifar_resnet110": Row("model.zoo:cifar_resnet110", "CIFAR ResNet, 18 blocks a stage", "He et al., 2015"),
        "cifar_plain20": Row("model.zoo:cifar_plain20", "ResNet-20 without shortcuts", "He et al., 2015"),
        "cifar_vgg": Row(
            "model.zoo:cifar_vgg",
            "VGG-like CIFAR network of eight convolutions with BatchNorm",
            "Simonyan & Zisserman, 2014",
        ),
        "lenet5": Row(
            "model.zoo:lenet5", "LeNet-5 with 28x28 (default) or other square grey inputs", "LeCun et al., 1998"
        ),
        "lenet300": Row("model.zoo:lenet300", "LeNet-300-100, a fully connected network", "LeCun et al., 1998"),
        "digits_cnn": Row("model.zoo:digits_cnn", "convolutional network for the 8x8 digits, 0.23 M parameters"),
        "digits_cnn_small": Row("model.zoo:digits_cnn_small", "a quarter as wide, a student for digits_cnn"),
        "digits_mlp": Row("model.zoo:digits_mlp", "fully connected network for the 8x8 digits"),
        "chain": Row("model.chain:chain", "the network that a list of layers describes, as a search writes it down"),
    },
)
