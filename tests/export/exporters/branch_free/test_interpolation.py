"""Interpolation as a matrix: as torch's own."""

import pytest
import torch
from torch.nn.functional import interpolate

from compresskit.export.exporters.branch_free.interpolation import cubic_weights, linear_weights


@pytest.mark.parametrize(("weights", "mode"), [(linear_weights, "bilinear"), (cubic_weights, "bicubic")])
@pytest.mark.parametrize(("cells", "size"), [(1, 4), (5, 1), (5, 5), (7, 18), (20, 9)])
def test_a_row_times_the_weights_is_the_resized_row(weights, mode, cells, size):
    row = torch.randn(1, 1, 1, cells, dtype=torch.float64)
    found = weights(torch.arange(size).double(), torch.tensor(size).double(), cells) @ row[0, 0, 0]
    torch.testing.assert_close(found, interpolate(row, (1, size), mode=mode)[0, 0, 0])
