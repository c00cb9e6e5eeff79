"""Transformers folders in AWQ's layout (version "gemm"), as vLLM and transformers read it: 4 bits, zero points.

A linear layer has `qweight` int32 (in, out / 8), `qzeros` int32 (groups, out / 8), both packed along the outputs in the
order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on, and `scales` float16 (groups, out).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ....core.types import Loaded
from ....quantization.layers.quantized_layer import quantized_layers
from ...folders.packed_layers import GroupedCodes, grouped_codes, into_words, write_packed
from ...options import ExportOptions

_BITS, _ORDER = 4, (0, 2, 4, 6, 1, 3, 5, 7)


def awq(loaded: Loaded, path: Path, options: ExportOptions) -> list[str]:
    """Write a quantized model as a folder in AWQ's layout.

    Args:
        loaded: a model whose linear layers are quantized to integers of 4 bits, most in groups of one size.
        path: an empty folder.
        options: what becomes of factored layers.
    Returns:
        notes: layers whose weights are floats in the folder.
    Raises:
        InputError: if no layer fits, or activations are quantized.
    """
    found = [one for layer in quantized_layers(loaded.module).values() if (one := grouped_codes(layer)) is not None]
    sizes = Counter(one.group_size for one in found if _fits(one)).most_common(1)
    return write_packed(loaded, path, options, partial(_packed, sizes[0][0] if sizes else 0), _configuration)


def _fits(found: GroupedCodes) -> bool:
    return found.bits == _BITS and found.codes.shape[1] % 8 == 0


def _packed(group_size: int, found: GroupedCodes) -> dict[str, Tensor] | None:
    if not _fits(found) or found.group_size != group_size:
        return None
    return {
        "qweight": into_words(found.codes, _BITS, 1, _ORDER),
        "qzeros": into_words(found.zeros, _BITS, 1, _ORDER),
        "scales": found.scales,
    }


def _configuration(packed: Mapping[str, GroupedCodes], others: Sequence[str]) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": _BITS,
        "group_size": next(iter(packed.values())).group_size,
        "zero_point": True,
        "modules_to_not_convert": list(others),
    }
