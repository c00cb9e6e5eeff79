"""How many bytes a file takes beside the artifact of the same model, and what it cannot hold in as few."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ...analysis.measure.costs.counted import stored_bytes
from ...core.tensors.dtypes import HALVES, model_dtype
from ...core.types import Loaded
from ...quantization.layers.quantized_layer import quantized_layers
from ..exporters.export_program import LOOKUPS

_WRAPPED = "model."  # before the names of layers, where a wrapper was traced
#: a file is said to be larger than the artifact from this factor on, and from this many bytes more (graph, names)
_FACTOR, _GRAPH_BYTES = 1.1, 64 << 10


def size_notes(loaded: Loaded, program: torch.export.ExportedProgram, file_bytes: int, options: Any) -> list[str]:
    """A note where a file gives up bytes that the artifact saves.

    Args:
        loaded: the model.
        program: what was written.
        file_bytes: of all files.
        options: of the export.
    """
    stored = stored_bytes(loaded)
    if file_bytes <= _FACTOR * stored + _GRAPH_BYTES:
        return []
    reasons = _reasons(loaded, program, options) or ["the graph itself"]
    lost = f"{_shown(file_bytes - stored)} of the artifact's gain are lost"
    return [f"the file has {_shown(file_bytes)} where the artifact has {_shown(stored)} ({lost}): {'; '.join(reasons)}"]


def held_as_floats(loaded: Loaded, program: torch.export.ExportedProgram, options: Any) -> list[str]:
    """A line for each number format whose weights the file holds as floats."""
    coded = program.graph_module.meta.get(LOOKUPS, {}) if options.format == "onnx" else {}
    names = {name.removeprefix(_WRAPPED) for name in coded} | set(coded)
    formats = Counter(
        layer.spec.format
        for name, layer in quantized_layers(loaded.module).items()
        if layer.spec.parameters
        and layer.number_format.lowering == "constant"
        and not all(f"{name}.{parameter}_lowered".lstrip(".") in names for parameter in layer.spec.parameters)
    )
    return [f"{name} weights of {count} layers are float constants in the file" for name, count in formats.items()]


def _reasons(loaded: Loaded, program: torch.export.ExportedProgram, options: Any) -> list[str]:
    layers = [
        layer
        for layer in quantized_layers(loaded.module).values()
        if layer.spec.parameters and (layer.number_format.lowering == "integers" or options.format == "onnx")
    ]
    codecs = Counter(loaded.storage.values())
    dtype = model_dtype(loaded.module)
    width = 4 if options.format == "onnx" and options.opset >= 21 else 8
    wider = Counter(layer.spec.bits for layer in layers if layer.spec.packed and layer.spec.bits < width)
    return [
        *held_as_floats(loaded, program, options),
        *([f"float32 in the place of {str(dtype).removeprefix('torch.')}"] if dtype in HALVES else []),
        *(f"codes of {bits} bits in {count} layers take {width} bits" for bits, count in sorted(wider.items())),
        *([f"{codecs['huffman']} tensors are stored without Huffman codes"] if codecs["huffman"] else []),
        *([f"zeros of {codecs['bitmap']} tensors"] if codecs["bitmap"] and options.format != "onnx" else []),
    ]


def _shown(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
