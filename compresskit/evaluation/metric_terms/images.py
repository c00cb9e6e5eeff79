"""Metrics of images that a model gives: signal-to-noise ratio and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import InputError
from .library import torchmetrics
from .numbers import mse, shaped_alike

_MOST_DB = 100.0  # what equal images count as, so that a mean stays finite


def psnr(outputs: Tensor, targets: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10 log10(range^2 / mse), at most 100 dB.

    Args:
        outputs: images, (batch, ...).
        targets: images of the same shape.
        data_range: largest value less smallest value that a pixel may have.
    Returns:
        (batch,), in dB.
    """
    _check_range(targets, data_range, "psnr")
    floor = data_range**2 * 10 ** (-_MOST_DB / 10)
    return 10 * torch.log10(data_range**2 / mse(outputs, targets).clamp(min=floor))


def ssim(outputs: Tensor, targets: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each image, by a Gaussian window of 11 x 11 pixels.

    Args:
        outputs: images, (batch, channels, height, width).
        targets: images of the same shape.
        data_range: largest value less smallest value that a pixel may have.
    Returns:
        (batch,).
    Source: Wang et al., "Image Quality Assessment", 2004, eq. 13.
    """
    _check_range(targets, data_range, "ssim")
    function = torchmetrics("functional.image.structural_similarity_index_measure")
    found: Tensor = function(shaped_alike(outputs, targets), targets, data_range=data_range, reduction="none")
    return found


vars(ssim)["scale"] = "share"


def _check_range(targets: Tensor, data_range: float, name: str) -> None:
    spread = float(targets.max() - targets.min())
    if spread > data_range * 1.001:
        raise InputError(
            f"metric {name!r}: pixels of the targets lie {spread:g} apart, and data_range is {data_range:g}; give "
            "metric_arg data_range, e.g. 255 for bytes or 2 for values from -1 to 1"
        )
