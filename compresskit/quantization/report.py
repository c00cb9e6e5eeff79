"""What the report says about a quantized model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn

from compresskit.analysis.calibration.hooks import Reached, stream
from compresskit.core.tensors.freed_memory import release_pages
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs, Loaded, main_output

from .formats.uniform import sqnr_db
from .layers.quantized_layer import Quantized
from .layers.weights import bytes_by_kind


def size_facts(before: nn.Module, after: Loaded) -> dict[str, Any]:
    """Tensor bytes before and after, by kind. They are stored sizes: eager execution computes in float."""
    kinds = bytes_by_kind(after.module, after.storage)
    old_bytes = sum(bytes_by_kind(before).values())
    new_bytes = sum(kinds.values())
    return {
        "size_label": "stored",
        "latency_label": "simulated: eager layers dequantize and compute in float; export to run in integers",
        "float_tensor_bytes": old_bytes,
        "tensor_bytes": new_bytes,
        "compression_ratio": round(old_bytes / max(new_bytes, 1), 3),
        **{f"{kind}_bytes": size for kind, size in kinds.items()},
    }


def layer_table(
    float_model: nn.Module, model: nn.Module, names: list[str], probe: Inputs, storage: dict[str, str]
) -> list[dict[str, Any]]:
    """One row a quantized layer: bits, bytes, and the SQNR of its output on the float model's activations.

    Args:
        float_model: the model before its layers were quantized.
        model: the quantized model.
        names: the quantized layers.
        probe: a batch of inputs to run.
        storage: codecs of the model's tensors.
    """
    output_db: dict[str, float] = {}

    def compare(name: str):
        layer = get_module(model, name)

        def watcher(_float_layer: nn.Module, inputs: tuple, output: object) -> None:
            if name in output_db or not inputs:
                return
            output_db[name] = round(sqnr_db(main_output(output), main_output(layer(*inputs))), 2)
            if isinstance(layer, Quantized):
                layer.forget()
            if len(output_db) == len(watchable):
                raise Reached

        return watcher

    watchable = [name for name in names if not isinstance(get_module(model, name), nn.MultiheadAttention)]
    model.eval()
    with suppress(Reached):
        stream(float_model, [probe], {name: compare(name) for name in watchable})
    return [
        _row(name, get_module(float_model, name), get_module(model, name), output_db.get(name), storage)
        for name in names
    ]


def _row(
    name: str, before: nn.Module, after: nn.Module, output_db: float | None, storage: dict[str, str]
) -> dict[str, Any]:
    if not isinstance(after, Quantized):
        raise TypeError(f"layer {name!r} is a {type(after).__name__}, which is not quantized")
    weight_db = min(_weight_db(before, after, parameter) for parameter in after.spec.parameters)
    own = {key.removeprefix(f"{name}."): codec for key, codec in storage.items() if key.startswith(f"{name}.")}
    kinds = bytes_by_kind(after, own)
    stored = sum(size for kind, size in kinds.items() if kind != "float")
    count = sum(after.parameter_shapes[parameter].numel() for parameter in after.spec.parameters)
    return {
        "layer": name,
        "kind": after.float_class.__name__,
        "format": after.spec.format,
        "bits": after.spec.bits,
        "granularity": after.number_format.granularity_label(after.spec),
        "activations": after.spec.input,
        "weights": count,
        "stored_bytes": stored,
        "weight_sqnr_db": _finite(weight_db),
        "output_sqnr_db": _finite(output_db),
    }


def _finite(decibels: float | None) -> float | None:
    """What JSON can hold: exact copies have no noise, and so no figure."""
    return None if decibels == float("inf") else decibels


def _weight_db(before: nn.Module, after: Quantized, parameter: str) -> float:
    weight = before.get_parameter(parameter).detach()
    with torch.no_grad():
        found = round(sqnr_db(weight, after.dequantized(parameter)), 2)
    release_pages(weight)
    return found
