"""The stream of a transformer: what is added up from layer to layer, who writes into it, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...core.errors import InputError
from ...core.types import Loaded
from ...model.libraries.experts import is_experts, matrix_of, projections
from ..calibration.im2col import is_transformers_linear
from ..dataflow import Key, trace


@dataclass
class Stream:
    """What is added up from layer to layer.

    Attributes:
        width: channels.
        embeddings, writers: modules whose rows, and whose outputs, are added to it.
        readers: normalization -> the modules that read what it gives.
        attentions: (values, outputs, width of a head) of attention.
        centred: whether normalizations take the mean over the channels out.
    """

    width: int
    embeddings: list[str] = field(default_factory=list)
    writers: list[str] = field(default_factory=list)
    readers: dict[str, list[str]] = field(default_factory=dict)
    attentions: list[tuple[str, str, int]] = field(default_factory=list)
    centred: bool = False


def find_stream(loaded: Loaded) -> Stream:
    """The stream of a transformer, by what its normalizations give to which layers.

    Raises:
        InputError: if it has none that is known, or some of its layers are quantized.
    """
    root = loaded.module
    modules = dict(root.named_modules())
    widths = {name: one.embedding_dim for name, one in modules.items() if isinstance(one, nn.Embedding)}
    if not widths or any(edit.get("op") == "quantized" for edit in loaded.edits):
        what = "some of its layers are quantized" if widths else "it embeds no tokens"
        raise InputError(f"rotate: the model has no stream to turn: {what}")
    record = trace(root, loaded.example)
    stream = Stream(next(iter(widths.values())))
    stream.embeddings = [name for name, width in widths.items() if width == stream.width]
    given = {
        _value(output): name
        for name, calls in record.calls.items()
        if _is_norm(modules[name], stream.width) and (output := record.single_output(name)) is not None and calls
    }
    reading: set[str] = set()
    for name in record.calls:
        if _input_width(modules[name]) != stream.width or not record.calls[name][0].inputs:
            continue
        norm = given.get(_value(record.calls[name][0].inputs[0]))
        if norm is not None:
            stream.readers.setdefault(norm, []).append(name)
            reading.add(name)
    stream.writers = [
        name for name in record.calls if _output_width(modules[name]) == stream.width and name not in reading
    ]
    stream.writers += [name for name in reading if is_experts(modules[name])]
    silent = set(given.values()) - set(stream.readers)
    if not stream.readers or not stream.writers or silent:
        where = f"{sorted(silent)[0]} is read by no linear layer" if silent else "no normalization feeds linear layers"
        raise InputError(f"rotate: {where}, so the stream between the layers cannot be turned")
    stream.attentions = list(_attentions(root))
    stream.centred = any(_centres(modules[name]) for name in stream.readers)
    return stream


def _value(key: Key) -> tuple[Any, ...]:
    """What a value and its views have in common."""
    return key[0], key[1], torch.Size(key[2]).numel(), key[4]


def _is_norm(module: nn.Module, width: int) -> bool:
    weight = module._parameters.get("weight")
    return type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and weight is not None and weight.shape == (width,)


def _centres(norm: nn.Module) -> bool:
    name = type(norm).__name__
    return name.endswith("LayerNorm") and "RMS" not in name


def _input_width(module: nn.Module) -> int | None:
    """How wide what a module's matrix reads is: a linear layer's, a router's, or that of experts."""
    if is_experts(module):
        return matrix_of(module, projections(module)[0], 0).shape[1]
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 2 or isinstance(module, nn.Embedding):
        return None
    return weight.shape[0 if is_transformers_linear(module) else 1]


def _output_width(module: nn.Module) -> int | None:
    weight = module._parameters.get("weight")
    linear = isinstance(module, nn.Linear) or is_transformers_linear(module)
    return weight.shape[1 if is_transformers_linear(module) else 0] if linear and weight is not None else None


def _attentions(root: nn.Module) -> list[tuple[str, str, int]]:
    found = []
    for name, module in root.named_modules():
        parts = dict(module.named_children())
        out = "o_proj" if "o_proj" in parts else "out_proj"
        head = getattr(module, "head_dim", None)
        if "v_proj" in parts and out in parts and isinstance(head, int):
            values, outputs = _output_width(parts["v_proj"]), _input_width(parts[out])
            if values and outputs and values % head == 0 == outputs % head:
                found.append((f"{name}.v_proj", f"{name}.{out}", head))
    return found
