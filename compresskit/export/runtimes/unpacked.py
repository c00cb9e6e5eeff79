"""Transformers folders in GPTQ's or AWQ's layout, unpacked on reading: their own kernels need a GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...core.errors import InputError, require
from .exported import Exported

_GEMM_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # the place in its word of each of eight codes


def unpacked(exported: Exported) -> nn.Module:
    """The model that a folder holds, its packed weights as the floats that they stand for."""
    return unpacked_model(exported.path)


@torch.no_grad()
def unpacked_model(folder: Path) -> nn.Module:
    """Build the model that a folder's configuration names, with its weights.

    Raises:
        InputError: if the folder is of another layout, or lacks weights.
    """
    transformers = require("transformers", "hf")
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = content.pop("quantization_config", {})
    if said.get("quant_method") not in ("gptq", "awq"):
        raise InputError(f"{folder}: its layout is {said.get('quant_method')!r}, not gptq or awq")
    kind = getattr(transformers, content["architectures"][0])
    model = kind(kind.config_class.from_dict(content))
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    weights = {name: tensor for name, tensor in tensors.items() if not _is_packed(name)}
    for name in tensors:
        if name.endswith(".qweight"):
            layer = name.removesuffix(".qweight")
            weights[f"{layer}.weight"] = _weight(layer, tensors, said)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    model.tie_weights()
    if lost := [name for name in missing if not (model.config.tie_word_embeddings and name == "lm_head.weight")]:
        raise InputError(f"{folder}: has no {lost[0]}")
    return model.float().eval()


def _is_packed(name: str) -> bool:
    return name.rpartition(".")[2] in ("qweight", "qzeros", "scales", "g_idx")


def _weight(layer: str, tensors: dict[str, Tensor], said: dict[str, Any]) -> Tensor:
    """A layer's weight, (out, in)."""
    words, zeros, scales = (tensors[f"{layer}.{part}"] for part in ("qweight", "qzeros", "scales"))
    if said["quant_method"] == "awq":
        codes, offsets = (_columns(one, 4)[:, :, _GEMM_ORDER].flatten(1) for one in (words, zeros))
        groups = torch.arange(len(codes)) // (len(codes) // len(scales))
    else:
        bits = _bits_of(layer, said)
        codes = _columns(words.T.contiguous(), bits).flatten(1).T
        offsets = _columns(zeros, bits).flatten(1)
        offsets = (offsets + 1) % (1 << bits) if said["checkpoint_format"] == "gptq" else offsets
        groups = tensors[f"{layer}.g_idx"].long()
    return ((codes - offsets[groups]).float() * scales.float()[groups]).T


def _columns(words: Tensor, bits: int) -> Tensor:
    """(rows, words) int32 -> (rows, words, 32 / bits), the lowest bits first."""
    unsigned = words.long() & 0xFFFFFFFF
    return torch.stack([(unsigned >> shift) & ((1 << bits) - 1) for shift in range(0, 32, bits)], 2)


def _bits_of(layer: str, said: dict[str, Any]) -> int:
    for pattern, own in said.get("dynamic", {}).items():
        if pattern.startswith("+:") and re.match(pattern[2:], layer):
            return own["bits"]
    return said["bits"]
