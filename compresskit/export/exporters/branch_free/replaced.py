"""Functions of torch and torchvision that branch on values, or that not all runtimes have, replaced while tracing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from . import detection, functions, packed

#: module and name of a function -> what computes the same without branches
_REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torchvision.ops.boxes", "batched_nms"): detection.batched_nms,
    ("torchvision.ops.poolers", "_multiscale_roi_align"): detection.multiscale_roi_align,
    ("torchvision.models.detection._utils", "_topk_min"): detection.topk_min,
    ("torchvision.models.detection.roi_heads", "paste_masks_in_image"): detection.paste_masks_in_image,
    ("torchvision.models.detection.roi_heads", "heatmaps_to_keypoints"): detection.heatmaps_to_keypoints,
    # only asks whether a mask that is given anyhow happens to be the causal one
    ("torch.nn.modules.transformer", "_detect_is_causal_mask"): lambda mask, is_causal=None, size=None: bool(is_causal),
    ("torch.nn.functional", "embedding_bag"): functions.embedding_bag,
    ("torch.nn.functional", "pad"): functions.pad,
    ("torch.nn.utils.rnn", "pack_padded_sequence"): packed.pack_padded_sequence,
    ("torch.nn.utils.rnn", "pad_packed_sequence"): packed.pad_packed_sequence,
}
#: layers whose forward takes what those return
_RECURRENT: tuple[type[nn.Module], ...] = (nn.LSTM, nn.GRU, nn.RNN)


@contextmanager
def branch_free() -> Iterator[None]:
    """While open, such functions are others that compute the same, under every name that a module gave them."""
    found = []
    for (module_name, name), replacement in _REPLACED.items():
        original = getattr(sys.modules.get(module_name), name, None)
        if original is not None:
            found += [(names, key, original, replacement) for names, key in _names_of(original)]
    forwards = {kind: kind.forward for kind in _RECURRENT}
    for names, key, _, replacement in found:
        names[key] = replacement
    for kind, forward in forwards.items():
        kind.forward = packed.on_lengths(forward)
    try:
        with no_deprecations():
            yield
    finally:
        for names, key, original, _ in found:
            names[key] = original
        for kind, forward in forwards.items():
            kind.forward = forward


@contextmanager
def no_deprecations() -> Iterator[None]:
    """While open, torchvision does not warn of torch's functions that it calls by their older names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*create_unbacked_symint")
        yield


def _names_of(function: Any) -> list[tuple[dict[str, Any], str]]:
    """Names of a function: where modules imported it, too."""
    spaces = [
        vars(module) for module in list(sys.modules.values()) if isinstance(getattr(module, "__dict__", None), dict)
    ]
    return [(names, key) for names in spaces for key, value in list(names.items()) if value is function]
