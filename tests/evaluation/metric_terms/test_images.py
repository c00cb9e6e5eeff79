"""Metrics of images, by hand and against the library's."""

from __future__ import annotations

import math

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.images import psnr, ssim
from compresskit.evaluation.metrics import make_metric


def test_psnr_by_hand():
    targets = torch.rand(3, 1, 4, 4)
    outputs = targets + torch.tensor([0.0, 0.1, 0.01]).reshape(3, 1, 1, 1)
    assert psnr(outputs, targets).tolist() == pytest.approx([100, 20, 40], abs=1e-2)
    assert psnr(outputs * 255, targets * 255, data_range=255).tolist() == pytest.approx([100, 20, 40], abs=1e-2)
    with pytest.raises(InputError, match="give metric_arg data_range, e.g. 255"):
        psnr(outputs * 255, targets * 255)
    assert make_metric("psnr").drop(30.0, 28.5) == 1.5


def test_ssim_is_the_librarys_and_one_of_equal_images():
    functional = pytest.importorskip("torchmetrics.functional.image")
    targets = torch.rand(2, 3, 24, 24)
    outputs = (targets + 0.2 * torch.randn_like(targets)).clamp(0, 1)
    expected = functional.structural_similarity_index_measure(outputs, targets, data_range=1.0)
    assert ssim(outputs, targets).mean().item() == pytest.approx(expected.item())
    assert ssim(targets, targets).tolist() == pytest.approx([1, 1]) and math.isclose(
        make_metric("ssim").drop(1, 0.9), 0.1
    )
