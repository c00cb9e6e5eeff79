"""What is wrong with what a user's own row of decomposition's registries returned; "" where nothing is."""

from __future__ import annotations

from typing import Any

from .fit.fit import Fit
from .ranks.candidates import Layer


def choices(found: Any, layers: list[Layer], options: Any, totals: Any) -> str:
    """A rank rule returns a candidate, or None, for each layer."""
    if not isinstance(found, list | tuple) or len(found) != len(layers):
        return f"must return a list of {len(layers)} candidates, one a layer, None where it stays"
    for layer, one in zip(layers, found, strict=True):
        if one is not None and one not in layer.candidates:
            return f"must return one of layer.candidates for {layer.site.name!r}, or None, and returned {one!r:.80}"
    return ""


def fit(found: Any, kind: Any, layer: Any, ranks: Any, evidence: Any) -> str:
    """An objective returns a Fit."""
    return "" if isinstance(found, Fit) else f"must return a fit.fit.Fit, and returned {type(found).__name__}"
