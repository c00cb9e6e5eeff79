"""Transformers folders in GPTQ's layout, as vLLM, GPTQModel and transformers read it.

A linear layer has `qweight` int32 (in * bits / 32, out), codes packed along the inputs; `qzeros` int32
(groups, out * bits / 32), zero points packed along the outputs; `scales` float16 (groups, out); `g_idx` int32 (in,),
the group of each input. Zero points stand one lower than they are in the first version of the layout ("gptq"), as they
are in "gptq_v2".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core.types import Loaded
from ....quantization.formats.uniform import middle_code
from ...folders.packed_layers import GroupedCodes, exactly, into_words, write_packed
from ...options import ExportOptions

_BITS = (2, 4, 8)


def gptq(loaded: Loaded, path: Path, options: ExportOptions) -> list[str]:
    """Write a quantized model as a folder in GPTQ's layout.

    Args:
        loaded: a model whose linear layers are quantized to integers of 2, 4 or 8 bits.
        path: an empty folder.
        options: what becomes of factored layers.
    Returns:
        notes: layers whose weights are floats in the folder, or have other bits than most.
    Raises:
        InputError: if no layer fits, or activations are quantized.
    """
    different: dict[str, Any] = {}

    def configuration(packed: Mapping[str, GroupedCodes], others: Sequence[str]) -> dict[str, Any]:
        found = _configuration(packed, others)
        different.update({name: what for name, what in found["dynamic"].items() if what})
        return found

    notes = write_packed(loaded, path, options, _packed, configuration)
    if different:
        notes.append(
            f"{len(different)} layers have other bits or groups than most, which GPTQModel and vLLM read, and "
            "transformers does not; for it quantize with first_last same, or export as compressed-tensors"
        )
    return notes


def _packed(found: GroupedCodes) -> dict[str, Tensor] | None:
    inputs, outputs = found.codes.shape
    if found.bits not in _BITS or inputs % (32 // found.bits) or outputs % (32 // found.bits):
        return None
    stored = found.zeros - 1 if _is_symmetric(found) else found.zeros
    return {
        "qweight": into_words(found.codes, found.bits, 0),
        "qzeros": into_words(stored, found.bits, 1),
        "scales": found.scales,
        "g_idx": (torch.arange(inputs) // (inputs if found.group_size == -1 else found.group_size)).to(torch.int32),
    }


def _is_symmetric(found: GroupedCodes) -> bool:
    return bool((found.zeros == middle_code(found.bits)).all())


def _configuration(packed: Mapping[str, GroupedCodes], others: Sequence[str]) -> dict[str, Any]:
    """Bits and groups of most layers; what differs stands under `dynamic`, and what is float there with a minus."""
    (bits, group_size), _ = Counter((one.bits, one.group_size) for one in packed.values()).most_common(1)[0]
    symmetric = all(map(_is_symmetric, packed.values()))
    different = {
        f"+:{exactly(name)}": {"bits": one.bits, "group_size": one.group_size}
        for name, one in packed.items()
        if (one.bits, one.group_size) != (bits, group_size)
    }
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if symmetric else "gptq_v2",
        "bits": bits,
        "group_size": group_size,
        "sym": symmetric,
        "desc_act": False,
        "lm_head": "lm_head" in packed,
        "dynamic": {**different, **{f"-:{exactly(name)}": {} for name in others}},
    }
