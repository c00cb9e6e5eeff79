"""Filling quantized layers with the parts of their weights, and their bytes by kind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compresskit.artifact.codecs import huffman
from compresskit.artifact.codecs.storage import CODECS

from ..formats.number_format import Parts
from .quantized_layer import Quantized


@torch.no_grad()
def store(layer: Quantized, parameter: str, parts: Parts) -> None:
    """Set a parameter's parts, `values` as (rows, columns) codes, as its format's `quantize` gives them."""
    shape = layer.parameter_shapes[parameter]
    for part, value in parts.items():
        packed = layer.number_format.pack(value, shape, layer.spec) if part == "values" else value
        getattr(layer, f"{parameter}_{part}").copy_(packed)


#: kinds of what a quantized layer holds beside its weights, by the end of the name
_KINDS = {"scale": "scales", "zero_point": "scales", "multiplier": "scales"}


def _kinds_of(module: nn.Module) -> dict[str, str]:
    """What a quantized layer's tensors are counted as, by name."""
    if not isinstance(module, Quantized):
        return {}
    names = [*module._parameters, *module._buffers]
    found = {name: kind for name in names for end, kind in _KINDS.items() if name.endswith(end)}
    for parameter in module.spec.parameters:
        stored = module.number_format.stored(module.parameter_shapes[parameter], module.spec)
        found |= {f"{parameter}_{part}": one.kind for part, one in stored.items()}
    return found


def bytes_by_kind(root: nn.Module, storage: Mapping[str, str] | None = None) -> dict[str, int]:
    """Bytes of a model's tensors by kind as they are stored, tied ones once.

    Values (codes and indices), positions (run-lengths of zeros), scales, codebooks and overhead (code tables,
    headers) are those of quantized weights and activations; "float" is biases, norms and layers left alone. The file
    adds its own header to their sum.

    Args:
        root: the model.
        storage: codecs of its tensors.
    """
    parts: list[str] = ["values", "positions", "scales", "codebooks", "overhead", "float"]
    sizes = dict.fromkeys(parts, 0)
    seen: set[int] = set()
    for path, module in root.named_modules():
        kinds = _kinds_of(module)
        tensors: dict[str, Tensor | None] = {**dict(module._parameters), **dict(module._buffers)}
        for name, tensor in tensors.items():
            if tensor is None or id(tensor) in seen or name in module._non_persistent_buffers_set:
                continue
            seen.add(id(tensor))
            kind = kinds.get(name, "float")
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
