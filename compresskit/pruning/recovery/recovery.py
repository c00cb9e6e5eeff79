"""What follows a cut: refitting the layers that lost inputs, and BatchNorm statistics."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...analysis.answering_layers import unaligned_layers
from ...analysis.calibration.block_walk.blocks import find_blocks
from ...core.reporting.phases import phase
from ...core.tensors.modules import bias_of, get_module, tensor_of
from ...core.types import Loaded, to_device
from ...training.batchnorm import estimate_batchnorm
from ...training.context import Context
from ..dependency.graph import Graph
from ..importance.calibration_statistics import Evidence, calibration
from ..options import PruneOptions
from .refit import Fit, quickly_refitted, refit_all
from .sampled_outputs import refittable

#: samples for each column of a layer's weight from which on a refit without cross-validation is better than none.
#: ResNet-20 at half its MACs, top-1 with none and inputs: 0.44, 0.39 at 0.4 samples a column of the last layer; 0.45,
#: 0.63 at 1.8; 0.46, 0.69 at 7
_ENOUGH = 1.5
_RIDGE = 1e-3  # where none is given and it is not cross-validated


def refit_kind(loaded: Loaded, options: PruneOptions, context: Context) -> Literal["none", "inputs", "sequential"]:
    """How layers are refitted: as the options say, or as data and memory allow."""
    kind = options.reconstruct
    if kind == "none" or kind == "inputs" or kind == "sequential":
        return kind
    if context.data is None:
        return "none"
    return "sequential" if has_quick_refit(loaded, options, context) else "inputs"


def has_quick_refit(loaded: Loaded, options: PruneOptions, context: Context) -> bool:
    """Whether there are data, and refitting one layer after the other on them takes little time and memory."""
    if context.data is None:
        return False
    examples = context.data.size("train", at_most=options.samples)
    return quickly_refitted(loaded.module, to_device(loaded.example, context.device), examples=examples)


@phase("refit")
def refit_before_cut(module: nn.Module, graph: Graph, keep: np.ndarray, evidence: Evidence, ridge: float | None) -> int:
    """Refit layers of the whole model for the inputs that stay (those that go get weight zero); returns how many.

    Layers with fewer than 1.5 samples for each number of a row of their weight keep it, but for the bias.

    W_S = (G_SS + ridge)^-1 (G_S W + ridge W_S) with G the covariance of the whole model's inputs, so one run serves all
    layers. Biases take what the mean of the lost inputs contributed.
    """
    count = 0
    for name, moments in evidence.moments.items():
        layer = get_module(module, name)
        mask = _input_mask(graph, name, keep)
        if mask is None or mask.all():
            continue
        own, bias = tensor_of(layer), bias_of(layer)
        kernel = own[0].numel() // own.shape[1]
        stays = torch.from_numpy(np.flatnonzero(np.repeat(mask, kernel)))
        covariance = moments.covariance()[0].double()
        weight = own.detach().double().flatten(1).T  # (columns, out)
        fitted = torch.zeros_like(weight)
        fitted[stays] = weight[stays]
        enough = moments.count >= _ENOUGH * moments.first.shape[1]
        if enough:
            inner = covariance[stays][:, stays]
            pull = (_RIDGE if ridge is None else ridge) * inner.diagonal().mean() + 1e-12
            right = covariance[stays] @ weight + pull * weight[stays]
            fitted[stays] = torch.linalg.solve(inner + pull * torch.eye(len(stays)).to(inner), right)
        with torch.no_grad():
            if bias is not None:
                bias += ((weight - fitted).T @ (moments.first[0].double() / moments.count)).to(bias.dtype)
            own.copy_(fitted.T.reshape(own.shape))
        count += enough
    return count


@phase("refit")
def refit_after_cut(
    whole: nn.Module, cut: Loaded, graph: Graph, keep: np.ndarray, options: PruneOptions, context: Context
) -> int:
    """Refit layers of the cut model block by block, from its own inputs; returns how many.

    From the first layer that lost inputs on all are refitted, because what they read has changed.
    """
    inputs = calibration(context, options.samples, "reconstruct")
    names: list[str] = []
    unaligned = unaligned_layers(whole, inputs[0])
    for name, layer in whole.named_modules():
        if name in unaligned:
            continue
        mask = _input_mask(graph, name, keep) if refittable(layer) else None
        if mask is not None and (names or not mask.all()):
            names.append(name)
    stored = {full: s for s in graph.trace.stored.values() for full in s.names}
    kept: dict[str, torch.Tensor | None] = {}
    for name in names:
        mask = keep[stored[f"{name}.weight"].ids[0].numpy()]
        kept[name] = None if mask.all() else torch.from_numpy(np.flatnonzero(mask))
    return refit_all(
        whole,
        cut.module,
        find_blocks(cut.module, cut.example),
        names,
        inputs,
        Fit(kept, options.ridge),
        points=options.positions_per_sample,
        generator=torch.Generator().manual_seed(context.seed),
    )


@phase("refit")
def recalibrate(loaded: Loaded, options: PruneOptions, context: Context) -> int:
    """Estimate BatchNorm statistics again where there is data; returns how many layers.

    Not wanted after a refit layer by layer: it aims at the whole model's outputs, whose statistics are the ones there
    are.
    """
    if options.recalibrate == "never" or context.data is None:
        return 0
    return estimate_batchnorm(loaded.module, calibration(context, options.samples, "recalibrate"))


def _input_mask(graph: Graph, layer: str, keep: np.ndarray) -> Any:
    """Which input positions of a layer's weight stay; None if the run never saw it."""
    for stored in graph.trace.stored.values():
        if f"{layer}.weight" in stored.names and len(stored.ids) > 1:
            return keep[stored.ids[1].numpy()]
    return None
