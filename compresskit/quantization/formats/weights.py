"""Filling quantized layers: from codes and scales to buffers, and their bytes by kind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compresskit.artifact.codecs import huffman
from compresskit.artifact.codecs.storage import CODECS

from . import uniform
from .layer_spec import Spec
from .layers import FLOAT8, Quantized, from_matrix
from .packing import pack
from .uniform import Grid


@torch.no_grad()
def store_codes(layer: Quantized, parameter: str, codes: Tensor) -> None:
    """Set a parameter's codes (or codebook indices), (rows, columns) in [0, 2**bits)."""
    spec, shape = layer.spec, layer.parameter_shapes[parameter]
    buffer = getattr(layer, f"{parameter}_values")
    if spec.packed:
        buffer.copy_(pack(codes.to(torch.uint8), spec.bits))
        return
    if buffer.dtype == torch.int8:
        codes = codes.to(torch.int16) - uniform.middle_code(spec.bits)
    buffer.copy_(from_matrix(codes, shape, spec.axis).to(buffer.dtype))


@torch.no_grad()
def store_grid(layer: Quantized, parameter: str, grid: Grid, codes: Tensor) -> None:
    """Set an "int" parameter: codes, scales, and zero points where it has them."""
    getattr(layer, f"{parameter}_scale").copy_(grid.scale)
    if not layer.spec.symmetric:
        getattr(layer, f"{parameter}_zero_point").copy_(grid.zero_point.to(torch.uint8))
    store_codes(layer, parameter, codes)


@torch.no_grad()
def store_float8(layer: Quantized, parameter: str, matrix: Tensor, granularity: str, group_size: int | None) -> None:
    """Set a "float8" parameter: each set of weights is scaled so that its largest is the format's largest."""
    low, high = uniform.weight_ranges(matrix, granularity, group_size)
    scale = (torch.maximum(-low, high) / torch.finfo(FLOAT8).max).clamp(min=uniform.SMALLEST_SCALE)
    getattr(layer, f"{parameter}_scale").copy_(scale)
    wide = uniform.expand_groups(scale, matrix.shape[1], group_size)
    shape = layer.parameter_shapes[parameter]
    getattr(layer, f"{parameter}_values").copy_(from_matrix(matrix / wide, shape, layer.spec.axis).to(FLOAT8))


@torch.no_grad()
def store_codebook(layer: Quantized, parameter: str, codebook: Tensor, indices: Tensor) -> None:
    """Set a "codebook" parameter: (2**bits,) values and the (rows, columns) indices into them."""
    getattr(layer, f"{parameter}_codebook").copy_(codebook)
    store_codes(layer, parameter, indices)


def safe_scale_type(matrix: Tensor, spec: Spec) -> str:
    """The spec's scale type, or float32 where float16 would lose a tiny scale's precision."""
    low, high = uniform.weight_ranges(matrix, spec.granularity, spec.group_size)
    scale, _ = uniform.range_to_scale(low, high, spec.bits, symmetric=spec.symmetric)
    used = scale[scale > uniform.SMALLEST_SCALE]
    # 2**-14 is float16's smallest normal number; a least-error scale may be a fifth of the covering one
    return "float32" if used.numel() and float(used.min()) < 5 * 2.0**-14 else spec.scale_type


_KINDS = {
    "values": "values",
    "scale": "scales",
    "zero_point": "scales",
    "multiplier": "scales",
    "codebook": "codebooks",
}


def bytes_by_kind(root: nn.Module, storage: Mapping[str, str] | None = None) -> dict[str, int]:
    """Bytes of a model's tensors by kind as they are stored, tied ones once.

    Values (codes and indices), positions (run-lengths of zeros), scales, codebooks and overhead (code tables,
    headers) are those of quantized weights and activations; "float" is biases, norms and layers left alone. The file
    adds its own header to their sum.

    Args:
        root: the model.
        storage: codecs of its tensors.
    """
    sizes = dict.fromkeys(("values", "positions", "scales", "codebooks", "overhead", "float"), 0)
    seen: set[int] = set()
    for path, module in root.named_modules():
        tensors: dict[str, Tensor | None] = {**dict(module._parameters), **dict(module._buffers)}
        for name, tensor in tensors.items():
            if tensor is None or id(tensor) in seen or name in module._non_persistent_buffers_set:
                continue
            seen.add(id(tensor))
            ending = next((kind for end, kind in _KINDS.items() if name.endswith(end)), "float")
            kind = ending if isinstance(module, Quantized) else "float"
            codec = (storage or {}).get(f"{path}.{name}" if path else name)
            if codec == "huffman":
                split = huffman.sizes(huffman.encode(tensor))
                sizes["values"] += split.values
                sizes["positions"] += split.positions
                sizes["overhead"] += split.overhead
            elif codec is not None:
                sizes[kind] += sum(
                    part.numel() * part.element_size() for part in CODECS.load(codec).encode(tensor).values()
                )
            else:
                sizes[kind] += tensor.numel() * tensor.element_size()
    return sizes
