"""What an agent sees of a layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...analysis.calibration.hooks import run_watched
from ...core.types import Loaded


def layer_features(loaded: Loaded, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Geometry of layers in one run of the example: c and n (inputs and outputs), h and w, stride, k (kernel side).

    Layers without a weight matrix, and names that are no layers, are absent.
    """
    layers: dict[str, Any] = dict(loaded.module.named_modules())
    found: dict[str, dict[str, float]] = {}

    def note(name: str, given: tuple, named: dict[str, Any], _output: Any) -> None:
        layer = layers[name]
        size = (*given, *named.values())[0].shape[2:] if hasattr(layer, "kernel_size") else ()
        weight = layer.weight
        found[name] = {
            "c": float(weight.shape[1] * getattr(layer, "groups", 1)),
            "n": float(weight.shape[0]),
            "h": float(size[0]) if size else 1.0,
            "w": float(size[-1]) if size else 1.0,
            "stride": float(layer.stride[0]) if size else 1.0,
            "k": float(layer.kernel_size[0]) if size else 1.0,
            "depthwise": float(getattr(layer, "groups", 1) == weight.shape[0] > 1),
        }

    usable = [n for n in dict.fromkeys(names) if n in layers and getattr(layers[n], "weight", None) is not None]
    run_watched(loaded.module, loaded.example, note, [name for name in usable if layers[name].weight.dim() > 1])
    return found
