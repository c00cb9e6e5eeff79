"""Transformers folders of float weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import nn

from ....core.errors import InputError
from ....core.types import Loaded
from ....decomposition.surgery.layers import recompose
from ....quantization.layers.quantized_layer import quantized_layers
from ...float_reference import float_twin
from ...folders.folder import check_source, naming, save_library_model
from ...folders.rebuild import library_model
from ...options import ExportOptions


def hf(loaded: Loaded, path: Path, options: ExportOptions) -> list[str]:
    """Write a model as a folder that `AutoModel.from_pretrained` loads: its own classes, float weights in its dtype.

    Args:
        loaded: the model, which is left as it is.
        path: an empty folder.
        options: what becomes of factored layers.
    Returns:
        notes on what the folder holds in another form.
    Raises:
        InputError: if no configuration describes the model, naming layers.
    """
    check_source(loaded)
    module, notes = naming(loaded, lambda: plain_module(loaded, options))
    save_library_model(naming(loaded, lambda: library_model(module, loaded.edits)), loaded, path)
    return notes


def plain_module(
    loaded: Loaded, options: ExportOptions, *, with_activations: bool = False
) -> tuple[nn.Module, list[str]]:
    """A copy of a model whose layers are those of its class: codes as the floats that they stand for.

    Args:
        loaded: the model, which is left as it is.
        options: what becomes of factored layers.
        with_activations: the caller says elsewhere how activations are quantized.
    Raises:
        InputError: if activations are quantized, or layers are factored and not to be merged.
    """
    layers = quantized_layers(loaded.module)
    active = [name for name, layer in layers.items() if quantizes_activations(layer.spec)]
    if active and not with_activations:
        raise InputError(
            f"{len(active)} layers quantize their activations ({active[0]} ...), which float weights cannot say; "
            "export it as compressed-tensors or onnx"
        )
    formats = Counter(layer.spec.format for layer in layers.values() if layer.spec.parameters)
    notes = [f"{name} weights of {count} layers are floats in the folder" for name, count in formats.items()]
    module = float_twin(loaded.module)
    factored = factored_layers(loaded)
    if factored and options.factored == "refuse":
        raise InputError(
            f"{len(factored)} layers are products of factors ({', '.join(factored[:3])} ...), which "
            "no configuration describes; --factored merge writes each as one dense layer, or export it as onnx"
        )
    if factored:
        with torch.no_grad():
            merged = recompose(module, loaded.edits)
        if len(merged) < len(factored):
            raise InputError("some factored layers were changed since, and cannot be merged; export it as onnx")
        notes.append(f"the factors of {len(merged)} layers are multiplied out: dense weights of lower rank")
    return module, notes


def quantizes_activations(spec: object) -> bool:
    """Whether a quantized layer rounds what goes in, comes out, or is multiplied inside."""
    return any(getattr(spec, name) not in ("none", 0) for name in ("input", "output", "operands"))


def factored_layers(loaded: Loaded) -> list[str]:
    """Layers that are chains of factors, by name."""
    found: dict[str, None] = {}
    for edit in loaded.edits:
        if edit["op"] == "factored":
            found[edit["target"]] = None
        elif edit["op"] == "merged":
            found.pop(edit["target"], None)
    return list(found)
