"""What GPTQ's and AWQ's layouts of a folder share: codes in 32-bit words, a group of columns a scale, the rest float.

A linear layer's weight is (out, in) in transformers; both layouts hold it turned, (in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.types import Loaded
from ...quantization.formats.uniform import middle_code
from ...quantization.layers.quantized_layer import Quantized, quantized_layers
from ..exporters.hugging_face.hf import plain_module
from ..options import ExportOptions
from .folder import check_source, naming, save_library_model
from .library_init import loadable, put_in_place
from .rebuild import library_model


class GroupedCodes(NamedTuple):
    """A linear layer's weight as both layouts need it.

    Attributes:
        codes: unsigned, (in, out) int64.
        scales: (groups, out) float16.
        zeros: zero points, (groups, out) int64.
        bits: of a code.
        group_size: rows that share a scale; -1 for all of them.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    bits: int
    group_size: int


def write_packed(
    loaded: Loaded,
    path: Path,
    options: ExportOptions,
    pack: Callable[[GroupedCodes], dict[str, Tensor] | None],
    configuration: Callable[[Mapping[str, GroupedCodes], Sequence[str]], dict[str, Any]],
) -> list[str]:
    """Write a quantized model as a folder whose linear layers are packed.

    Args:
        loaded: a transformers model whose linear layers are quantized to integers.
        path: an empty folder.
        options: what becomes of factored layers.
        pack: a layer's tensors by name; None where the layout has no form for it.
        configuration: what config.json says, of the packed layers and the names of the other linear layers.
    Returns:
        notes: layers whose weights are floats in the folder.
    Raises:
        InputError: if no layer fits the layout, or activations are quantized.
    """
    check_source(loaded)
    module, _ = naming(loaded, lambda: plain_module(loaded, options))
    layers = quantized_layers(loaded.module)
    groups = {name: found for name, layer in layers.items() if (found := grouped_codes(layer)) is not None}
    packed = {name: tensors for name, found in groups.items() if (tensors := pack(found)) is not None}
    if not packed:
        raise InputError(
            f"model {loaded.name!r}: none of its layers fits the layout (linear layers of integers whose groups divide "
            "their inputs); quantize it, e.g. with int4-weight and --granularity group, or export it as hf"
        )
    model = naming(loaded, lambda: library_model(module, loaded.edits))
    packed = naming(loaded, lambda: loadable(model, packed))
    put_in_place(model, packed)
    others = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name not in packed]
    config: Any = model.config
    config.quantization_config = configuration({name: groups[name] for name in packed}, others)
    save_library_model(model, loaded, path)
    floats = [name for name, layer in layers.items() if layer.spec.parameters and name not in packed]
    if not floats:
        return []
    return [f"weights of {len(floats)} quantized layers are floats in the folder, such as {floats[0]}"]


def grouped_codes(layer: Quantized) -> GroupedCodes | None:
    """A layer's weight in groups; None for other layers than linear ones of integers whose groups are whole."""
    spec = layer.spec
    if layer.float_class is not nn.Linear or spec.format != "int" or spec.parameters != ("weight",):
        return None
    rows, columns = layer.parameter_shapes["weight"]
    size = spec.group_size if spec.granularity == "group" and spec.group_size else columns
    if columns % size or spec.granularity == "tensor" or spec.input_multiplier:
        return None
    scale = layer.get_buffer("weight_scale")
    zeros = torch.full(scale.shape, middle_code(spec.bits)) if spec.symmetric else layer.get_buffer("weight_zero_point")
    return GroupedCodes(
        layer.codes("weight").reshape(rows, columns).T.long(), scale.T.half().contiguous(), zeros.T.long(), spec.bits,
        size if size < columns else -1,
    )  # fmt: skip


def into_words(codes: Tensor, bits: int, dim: int, order: Iterable[int] | None = None) -> Tensor:
    """Codes along a dimension, 32 / bits of them in an int32, the first in its lowest bits.

    Args:
        codes: unsigned, int64; the dimension is a multiple of 32 / bits.
        bits: 2, 4 or 8.
        dim: which dimension.
        order: which of a word's codes stands at each place; None for the order that they have.
    """
    count = 32 // bits
    parts = codes.unflatten(dim, (-1, count))
    words = torch.zeros_like(parts.select(dim + 1, 0))
    for place, source in enumerate(range(count) if order is None else order):
        words |= parts.select(dim + 1, source) << (bits * place)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).contiguous()


def exactly(name: str) -> str:
    """A regular expression that matches one name."""
    return f"^{re.escape(name)}$"
