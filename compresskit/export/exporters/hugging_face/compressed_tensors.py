"""Transformers folders whose weights stay in few bits: the layout of the library compressed-tensors, which vLLM reads.

A linear layer's tensors are, with weights of n bits seen as (rows, columns):

- pack-quantized: `weight_packed` int32, each row a little-endian bit stream of codes; `weight_scale` (rows, groups);
  `weight_shape`.
- int-quantized, float-quantized: `weight` int8 or float8, `weight_scale` (rows, 1) or (1,).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....core.errors import InputError
from ....core.types import Loaded
from ....quantization.formats.packing import pack
from ....quantization.formats.uniform import middle_code
from ....quantization.layers.layer_spec import Spec
from ....quantization.layers.quantized_layer import Quantized, matrix_shape, quantized_layers
from ...folders.folder import check_source, naming, save_library_model
from ...folders.library_init import loadable, put_in_place
from ...folders.rebuild import library_model
from ...options import ExportOptions
from .hf import plain_module

_METHOD = "compressed-tensors"


@dataclass(frozen=True)
class Packed:
    """One layer in the layout.

    Attributes:
        layout: the name of its format, e.g. pack-quantized.
        scheme: what the configuration says of its weights and inputs.
        tensors: name in the layer -> tensor.
    """

    layout: str
    scheme: dict[str, Any]
    tensors: dict[str, Tensor]


def compressed_tensors(loaded: Loaded, path: Path, options: ExportOptions) -> list[str]:
    """Write a quantized model as a compressed-tensors folder.

    Args:
        loaded: a model whose linear layers are quantized.
        path: an empty folder.
        options: what becomes of factored layers.
    Returns:
        notes: layers whose weights are floats in the folder.
    Raises:
        InputError: if nothing is quantized, or something that the layout cannot say.
    """
    check_source(loaded)
    layers = quantized_layers(loaded.module)
    packed = naming(loaded, lambda: _packed_layers(loaded.module, layers))
    module, _ = naming(loaded, lambda: plain_module(loaded, options, with_activations=True))
    model = naming(loaded, lambda: library_model(module, loaded.edits))
    packed = naming(loaded, lambda: _opened(model, packed, layers))
    put_in_place(model, {name: found.tensors for name, found in packed.items()})
    config: Any = model.config
    config.quantization_config = _configuration(model, packed)
    save_library_model(model, loaded, path)
    others = [name for name in layers if name not in packed and layers[name].spec.parameters]
    if not others:
        return []
    return [f"weights of {len(others)} quantized layers are floats in the folder, such as {others[0]}"]


def _packed_layers(root: nn.Module, layers: Mapping[str, Quantized]) -> dict[str, Packed]:
    inside = [name for name, layer in layers.items() if layer.spec.output != "none" or layer.spec.operands]
    if inside:
        raise InputError(
            f"{len(inside)} layers quantize their outputs or the products inside them ({inside[0]} ...), which the "
            "layout cannot say; quantize with int8-dynamic and without quantize_attention, or export it as onnx"
        )
    shifted = [name for name, layer in layers.items() if not layer.spec.symmetric and _fits(root, layer)]
    if shifted:
        raise InputError(
            f"{len(shifted)} layers have ranges with zero points ({shifted[0]} ...), which transformers does not load "
            "from this layout; quantize with symmetric ranges (--weight-range symmetric), or export it as hf"
        )
    found = {name: _packed(layer) for name, layer in layers.items() if _fits(root, layer)}
    whole = {name: packed for name, packed in found.items() if packed is not None}
    lost = [name for name, layer in layers.items() if layer.spec.input != "none" and name not in whole]
    if lost:
        raise InputError(f"{lost[0]} quantizes its input in a way that the layout cannot say; export it as onnx")
    if not whole:
        raise InputError(
            "none of its layers is quantized in a form that the layout has (linear layers of integers or float8); "
            "export it as hf, or quantize it, e.g. with int4-weight"
        )
    return whole


def _opened(model: nn.Module, packed: Mapping[str, Packed], layers: Mapping[str, Quantized]) -> dict[str, Packed]:
    """The packed layers less those that transformers has to find as floats."""
    found = loadable(model, packed)
    lost = [name for name in packed if name not in found and layers[name].spec.input != "none"]
    if lost:
        raise InputError(
            f"{lost[0]} quantizes its input, and transformers opens the folder only where its weight is a float; "
            "export it as onnx, or quantize weights alone"
        )
    return found


def _fits(root: nn.Module, layer: Quantized) -> bool:
    """Whether a layer is of a class that readers of the layout know, and its weight is no other layer's too."""
    if layer.spec.parameters != ("weight",) or layer.float_class is not nn.Linear:
        return False
    values = layer._buffers.get("weight_values")
    return sum(values is other for one in root.modules() for other in one._buffers.values()) == 1


def _packed(layer: Quantized) -> Packed | None:
    """A linear layer in the layout; None where its number format has none."""
    spec, rows_columns = layer.spec, matrix_shape(layer.parameter_shapes["weight"], layer.spec.axis)
    parts = {name: layer._buffers[f"weight_{name}"] for name in ("values", "scale")}
    values, scale = parts["values"], parts["scale"]
    if values is None or scale is None or spec.input_multiplier or spec.input_ranges == "channel":
        return None
    scale = scale.to(layer.read_dtype)
    activations = _activations(spec)
    if spec.format == "float8":
        if spec.granularity == "group":
            return None
        weights = _scheme("float", 8, spec.granularity, None, symmetric=True)
        tensors = {"weight": values.reshape(rows_columns), "weight_scale": _scale_of(scale, spec)}
        return Packed("float-quantized", {"weights": weights, "input_activations": activations}, tensors)
    if spec.format != "int":
        return None
    codes = layer.number_format.unpack(values, layer.parameter_shapes["weight"], spec).reshape(rows_columns)
    group_size, scale = _dividing_groups(rows_columns[1], spec, scale)
    if activations is not None and spec.granularity != "group":  # fewer bits than eight lie in a byte each, too
        weights = _scheme("int", 8, spec.granularity, None, symmetric=True)
        signed = (codes.to(torch.int16) - middle_code(spec.bits)).to(torch.int8)
        tensors = {"weight": signed, "weight_scale": _scale_of(scale, spec)} | _input_tensors(layer)
        return Packed("int-quantized", {"weights": weights, "input_activations": activations}, tensors)
    if activations is not None:
        return None
    weights = _scheme("int", spec.bits, spec.granularity, group_size, symmetric=True)
    tensors = {
        "weight_packed": _rows_packed(codes, spec.bits),
        "weight_scale": _scale_of(scale, spec),
        "weight_shape": torch.tensor(rows_columns, dtype=torch.int64),
    }
    return Packed("pack-quantized", {"weights": weights, "input_activations": None}, tensors)


def _scale_of(scale: Tensor, spec: Spec) -> Tensor:
    return scale.reshape(1) if spec.granularity == "tensor" else scale.contiguous().clone()


def _dividing_groups(columns: int, spec: Spec, scale: Tensor) -> tuple[int | None, Tensor]:
    """Groups that divide the columns, as the layout wants: smaller ones where ours do not, with repeated scales."""
    if spec.granularity != "group" or spec.group_size is None:
        return None, scale
    wide = min(spec.group_size, columns)
    size = math.gcd(wide, columns)
    return size, scale.repeat_interleave(wide // size, 1)[:, : columns // size].contiguous()


def _rows_packed(codes: Tensor, bits: int) -> Tensor:
    """(rows, columns) unsigned codes, each row a little-endian bit stream filled up to whole 32-bit words."""
    rows, columns = codes.shape
    words = -(-columns * bits // 32)
    filled = torch.nn.functional.pad(codes.to(torch.uint8), (0, -columns % 32))
    stream = pack(filled, bits).reshape(rows, -1).contiguous().view(torch.int32)
    return stream[:, :words].contiguous()


def _scheme(kind: str, bits: int, strategy: str, group_size: int | None, *, symmetric: bool) -> dict[str, Any]:
    return {
        "num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group_size,
        "dynamic": False, "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {},
    }  # fmt: skip


def _activations(spec: Spec) -> dict[str, Any] | None:
    if spec.input == "none":
        return None
    strategy = spec.input_ranges if spec.input == "dynamic" else "tensor"
    found = _scheme("int", spec.input_bits, strategy, None, symmetric=spec.input_symmetric)
    return {**found, "dynamic": spec.input == "dynamic"}


def _input_tensors(layer: Quantized) -> dict[str, Tensor]:
    """The range of a layer's input, where it was measured: codes count from -128 in the layout."""
    if layer.spec.input != "static":
        return {}
    scale, zero_point = layer.get_buffer("input_scale"), layer.get_buffer("input_zero_point")
    found = {"input_scale": scale.reshape(1).to(layer.read_dtype)}
    if not layer.spec.input_symmetric:
        found["input_zero_point"] = (zero_point.reshape(1) - middle_code(8)).to(torch.int8)
    return found


def _configuration(model: nn.Module, packed: Mapping[str, Packed]) -> dict[str, Any]:
    """What config.json says: a group a scheme; a single one is that of all linear layers but those to ignore."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, found in packed.items():
        groups[repr((found.layout, found.scheme))].append(name)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    layouts = {found.layout for found in packed.values()}
    single = len(groups) == 1
    return {
        "quant_method": _METHOD,
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": {
                "targets": ["Linear"] if single else names,
                **packed[names[0]].scheme,
                "output_activations": None,
                "format": packed[names[0]].layout,
            }
            for number, names in enumerate(groups.values())
        },
        "ignore": [name for name in linear if name not in packed] if single else [],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
