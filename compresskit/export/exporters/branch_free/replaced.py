"""torchvision's functions that branch on values, replaced while a model is traced."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import detection

#: module and name of a function of torchvision -> what computes the same without branches
_REPLACED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torchvision.ops.boxes", "batched_nms"): detection.batched_nms,
    ("torchvision.ops.poolers", "_multiscale_roi_align"): detection.multiscale_roi_align,
    ("torchvision.models.detection._utils", "_topk_min"): detection.topk_min,
    ("torchvision.models.detection.roi_heads", "paste_masks_in_image"): detection.paste_masks_in_image,
    ("torchvision.models.detection.roi_heads", "heatmaps_to_keypoints"): detection.heatmaps_to_keypoints,
}


@contextmanager
def branch_free() -> Iterator[None]:
    """While open, functions that branch on values are others that do not, under every name that a module gave them."""
    found = []
    for (module_name, name), replacement in _REPLACED.items():
        original = getattr(sys.modules.get(module_name), name, None)
        if original is not None:
            found += [(names, key, original, replacement) for names, key in _names_of(original)]
    for names, key, _, replacement in found:
        names[key] = replacement
    try:
        with no_deprecations():
            yield
    finally:
        for names, key, original, _ in found:
            names[key] = original


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
