"""Registries of what a model is judged and trained by: metrics, and losses against the data's own targets.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGE = "compresskit.evaluation"

METRICS: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry(
    "metric",
    _PACKAGE,
    {
        "top1": Row("metrics:top1", "share of examples whose highest logit is the label"),
        "top5": Row("metrics:top5", "share of examples whose label is among the five highest logits"),
        "mse": Row("metrics:mse", "mean squared error; lower is better"),
        "agreement": Row("metrics:agreement", "share of examples on which the original model's decision is kept"),
    },
    group="metrics",
    takes=("outputs", "targets"),
    doc="""What says how good a model is.

A row is a function (outputs, targets) -> (batch,), one value an example: `outputs` is the main tensor of what the model
returns, (batch, ...), in float32 at least, `targets` what the data gives. Attributes of the function:
`higher_is_better` (default True), and `compares_original` (default False), with which `targets` are the original
model's outputs.""",
)

LOSSES: Registry[Callable[..., Tensor]] = Registry(
    "loss",
    _PACKAGE,
    {
        "auto": Row("losses:auto", "cross-entropy for whole-number targets, mean squared error for others"),
        "ce": Row("losses:cross_entropy", "cross-entropy; takes label_smoothing"),
        "mse": Row("losses:squared_error", "mean squared error"),
    },
    group="losses",
    takes=("outputs", "targets"),
    doc="""What training minimizes against the data's own targets.

A row is a function (outputs, targets) -> scalar, differentiable, the mean over the batch: `outputs` is what the model
returns, as it returns it, `targets` what the data gives. One that has an argument `label_smoothing` gets that of the
options.""",
)
