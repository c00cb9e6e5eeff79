"""Linear maps of least squared error from what enters a layer to what should leave it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...analysis.calibration.moments import Moments


def regression(inputs: Tensor, outputs: Tensor, moments: Moments, start: Tensor, ridge: float = 1e-4) -> Tensor:
    """The linear map from input rows to output rows of least squared error, with a ridge towards a starting map.

    Args:
        inputs: (rows, groups, columns).
        outputs: (rows, out), out in group order.
        start: (out, columns).
    Returns:
        (out, columns).
    """
    groups = inputs.shape[1]
    maps = []
    for group, (own, begin) in enumerate(zip(outputs.chunk(groups, 1), start.chunk(groups), strict=True)):
        centred = inputs[:, group] - moments.mean[group]
        residual = own - own.mean(0) - centred @ begin.mT
        covariance = moments.covariance[group]
        damp = ridge * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        change = torch.linalg.solve(covariance + damp * eye, centred.mT @ residual / len(centred))
        maps.append(begin + change.mT)
    return torch.cat(maps)
