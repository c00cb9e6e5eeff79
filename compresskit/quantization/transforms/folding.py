"""Batch normalization folded into the layer before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compresskit.core.errors import InputError
from compresskit.core.manifest.edit_records import EditRecord, Name, reads
from compresskit.core.tensors.modules import bias_of, get_module, set_module, tensor_of
from compresskit.core.types import Loaded
from compresskit.training.batchnorm import channel_scale

from ...analysis.dataflow import Trace, shared_parameters, trace
from ..layers.quantized_layer import Quantized, output_axis

FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def find_pairs(root: nn.Module, record: Trace) -> list[tuple[str, str]]:
    """Layers whose output only a batch normalization reads, with that normalization.

    Args:
        root: the model.
        record: a trace of it.
    Returns:
        (layer name, normalization name), in order of execution.
    """
    shared = shared_parameters(root)
    modules = dict(root.named_modules())
    pairs = []
    for name in record.calls:
        layer = modules[name]
        if not isinstance(layer, FOLDABLE) or isinstance(layer, Quantized):
            continue
        if "weight" not in layer._parameters or f"{name}.weight" in shared or f"{name}.bias" in shared:
            continue
        output = record.single_output(name)
        readers = [] if output is None else record.consumers.get(output, [])
        if output is None or output in record.outputs or len(readers) != 1 or "batch_norm" not in readers[0].op:
            continue
        norm_name = readers[0].module
        norm = modules[norm_name]
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and len(record.calls[norm_name]) == 1:
            pairs.append((name, norm_name))
    return pairs


@torch.no_grad()
def fold_into(layer: nn.Module, norm: _BatchNorm) -> None:
    """Make a layer compute what the layer and the normalization after it compute together.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", CVPR 2018, section 3.2, eq. 14.
    """
    scale = channel_scale(norm)
    own_bias, groups = bias_of(layer), int(getattr(layer, "groups", 1))
    bias = torch.zeros_like(scale) if own_bias is None else own_bias.double()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.double()
    new_bias = (bias - norm.get_buffer("running_mean").double()) * scale + shift
    weight = tensor_of(layer).double()
    if output_axis(layer) == 1:
        # (in, out / groups, ...) -> (groups, in / groups, out / groups, ...)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        wide = scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
        new_weight = (grouped * wide).reshape(weight.shape)
    else:
        new_weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    tensor_of(layer).copy_(new_weight)
    if own_bias is None:
        layer.bias = nn.Parameter(new_bias.to(tensor_of(layer).dtype))
    else:
        own_bias.copy_(new_bias)


class FoldRecord(EditRecord):
    """The normalization that the target takes up."""

    norm: Name


@reads(FoldRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: fold, target, norm}: the layer gets a bias if it has none, the normalization passes its input through.

    A normalization that ends in an activation (`act`, as in timm) leaves that activation in its place.
    """
    layer, norm = get_module(root, edit["target"]), get_module(root, edit["norm"])
    if not isinstance(layer, FOLDABLE) or not isinstance(norm, _BatchNorm):
        raise InputError(f"{type(norm).__name__} does not fold into {type(layer).__name__}")
    if layer.bias is None:
        weight = layer.weight
        channels = int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0))
        layer.bias = nn.Parameter(torch.empty(channels, dtype=weight.dtype, device=weight.device))
    activation = getattr(norm, "act", None)
    set_module(root, edit["norm"], activation if isinstance(activation, nn.Module) else nn.Identity())


def fold_batchnorm(loaded: Loaded) -> list[tuple[str, str]]:
    """Fold every normalization that is the only reader of a layer's output, and record the edits.

    Returns:
        the folded (layer, normalization) pairs.
    """
    record = trace(loaded.module, loaded.example)
    pairs = find_pairs(loaded.module, record)
    for layer_name, norm_name in pairs:
        norm = get_module(loaded.module, norm_name)
        if not isinstance(norm, _BatchNorm):
            raise TypeError(f"{norm_name} is a {type(norm).__name__}")
        fold_into(get_module(loaded.module, layer_name), norm)
        edit = {"op": "fold", "target": layer_name, "norm": norm_name}
        replay(loaded.module, edit)
        loaded.edits.append(edit)
    return pairs
