"""Turning layers into quantized ones, in place: by a technique, and when an artifact's edits are replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.core.manifest.edit_records import reads
from compresskit.core.tensors.devices import device_of
from compresskit.core.tensors.modules import get_module

from ..formats.number_format import Stored
from .layer_spec import QuantizedRecord, Spec, spec_from_edit
from .quantized_layer import Quantized, format_of, name_format, quantized_class


def become(layer: nn.Module, kind: type[nn.Module]) -> None:
    """Give a layer another class, in place."""
    layer.__class__ = kind


def convert(layer: nn.Module, spec: Spec) -> Quantized:
    """Turn a layer in place into a quantized layer with empty buffers; scales and values are filled in afterwards.

    Converting a layer again may add the input's or output's quantization to it, or its weights' if it had none.

    Raises:
        InputError: if the layer lacks a named parameter, or has it quantized already.
    """
    float_class = layer.float_class if isinstance(layer, Quantized) else type(layer)
    shapes = dict(layer.parameter_shapes) if isinstance(layer, Quantized) else {}
    if isinstance(layer, Quantized):
        spec = _merge(layer.spec, spec)
    for name in spec.parameters:
        if name in shapes:
            continue
        parameter = layer._parameters.get(name)
        if parameter is None:
            raise InputError(f"a layer of type {float_class.__name__} has no parameter {name!r} to quantize")
        shapes[name] = parameter.shape
        del layer._parameters[name]
        _register_parameter_buffers(layer, name, parameter, spec)
    layer.__dict__.pop("_flat_weights", None)
    device = device_of(layer)
    for site in ("input", "output"):
        if getattr(spec, site) == "static" and f"{site}_scale" not in layer._buffers:
            layer.register_buffer(f"{site}_scale", torch.ones((), device=device))
            layer.register_buffer(f"{site}_zero_point", torch.zeros((), dtype=torch.int32, device=device))
    if spec.operands and spec.operand_ranges == "static" and "operand_scale" not in layer._buffers:
        layer.register_buffer("operand_scale", torch.ones(spec.operands, device=device))
        layer.register_buffer("operand_zero_point", torch.zeros(spec.operands, dtype=torch.int32, device=device))
    if spec.input_multiplier and "input_multiplier" not in layer._buffers:
        layer.register_buffer("input_multiplier", torch.ones(input_channels(layer), device=device))
    if spec.parameters:
        become(layer, format_of(spec.format).module(float_class, spec.parameters))
    else:
        become(layer, quantized_class(float_class, ()))  # type: ignore[arg-type]  # mypy takes no class for hashable
    if not isinstance(layer, Quantized):
        raise TypeError(f"format {spec.format!r} makes a {type(layer).__name__}, which is not quantized")
    layer.spec, layer.parameter_shapes = spec, shapes
    layer.read_dtype = getattr(torch, spec.weight_dtype)
    return layer


def input_channels(layer: nn.Module) -> int:
    """Channels of a linear or convolution layer's input."""
    channels = getattr(layer, "in_features", None) or getattr(layer, "in_channels", None)
    if channels is None:
        raise InputError(f"a layer of type {type(layer).__name__} has no input channels to scale")
    return channels


def _merge(old: Spec, new: Spec) -> Spec:
    """The spec of a layer that was quantized before and is quantized further."""
    if new.parameters and old.parameters:
        raise InputError(f"{', '.join(new.parameters)}: the layer's weights are quantized already")
    merged = replace(old if old.parameters else new, parameters=old.parameters or new.parameters)
    for site in ("input", "output"):
        keys = [site, f"{site}_bits", f"{site}_symmetric", *(["input_ranges"] if site == "input" else [])]
        chosen = new if getattr(new, site) != "none" else old
        merged = replace(merged, **{key: getattr(chosen, key) for key in keys})
    chosen = new if new.operands else old
    operand_keys = ("operands", "operand_ranges", "operand_bits", "operand_symmetric")
    merged = replace(merged, **{key: getattr(chosen, key) for key in operand_keys})
    return replace(merged, input_multiplier=old.input_multiplier or new.input_multiplier)


def _register_parameter_buffers(layer: nn.Module, name: str, parameter: Tensor, spec: Spec) -> None:
    for part, stored in format_of(spec.format).stored(parameter.shape, spec).items():
        _register_part(layer, f"{name}_{part}", stored, parameter.device)


def _register_part(layer: nn.Module, name: str, stored: Stored, device: torch.device) -> None:
    tensor = torch.empty(stored.shape, dtype=stored.dtype, device=device)
    if stored.trained:
        layer.register_parameter(name, nn.Parameter(tensor))
    else:
        layer.register_buffer(name, tensor)


def own_code(edit: dict[str, Any]) -> str:
    """The number format that an edit names, which may be the user's own."""
    return str(edit.get("format", Spec.format))


def trust(edit: dict[str, Any]) -> None:
    """Let the user's own number format in an edit run, because they trust the artifact."""
    name_format(own_code(edit))


@reads(QuantizedRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, **Spec}: the layer at target becomes quantized, shapes only."""
    spec = spec_from_edit(edit)
    if spec.parameters:
        format_of(spec.format).check(spec)
    convert(get_module(root, edit["target"]), spec)


vars(replay).update(trust=trust, own_code=own_code)
