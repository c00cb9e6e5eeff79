"""Rotating what flows between a transformer's layers, folded into the weights: outliers spread over all channels.

The stream x becomes x Q with an orthogonal Q. What writes into it gives Q^T W, what reads it takes W Q, and
normalizations in between, their gains moved into the readers, turn with it. The same is done inside attention, head by
head, to values. The model computes what it did, and its weights and activations have fewer large entries.

Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024, section 4, stages 1a and
    1b, without the rotations that need arithmetic at run time; for normalizations that subtract the mean Ashkboos et
    al., "SliceGPT", ICLR 2024, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.dtypes import HALVES
from compresskit.core.tensors.modules import bias_of, get_module, tensor_of
from compresskit.core.types import Loaded, call, main_output
from compresskit.model.libraries.experts import is_experts, matrix_of, projections

from ...analysis.dataflow import Key, Trace, trace
from ..layers.quantized_layer import Quantized, output_axis
from .own_heads import untie

#: largest change of the outputs, as a share of the largest, that counts as rounding
_TOLERANCE, _TOLERANCE_IN_HALVES = 1e-3, 0.1


@dataclass
class Stream:
    """What is added up from layer to layer.

    Attributes:
        width: channels.
        embeddings, writers: modules whose rows, and whose outputs, are added to it.
        readers: normalization -> the modules that read what it gives.
        attentions: (values, outputs, width of a head) of attention.
    """

    width: int
    embeddings: list[str] = field(default_factory=list)
    writers: list[str] = field(default_factory=list)
    readers: dict[str, list[str]] = field(default_factory=dict)
    attentions: list[tuple[str, str, int]] = field(default_factory=list)


def find_stream(root: nn.Module, record: Trace) -> Stream:
    """The stream of a transformer, by what its normalizations give to which layers.

    Raises:
        InputError: if it has none that is known, or some of its layers are quantized.
    """
    modules = dict(root.named_modules())
    widths = {name: one.embedding_dim for name, one in modules.items() if isinstance(one, nn.Embedding)}
    if not widths or any(isinstance(one, Quantized) for one in modules.values()):
        what = "some of its layers are quantized" if widths else "it embeds no tokens"
        raise InputError(f"rotate: the model has no stream to turn: {what}")
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
    return stream


def _value(key: Key) -> tuple[Any, ...]:
    """What a value and its views have in common."""
    return key[0], key[1], torch.Size(key[2]).numel(), key[4]


def _is_norm(module: nn.Module, width: int) -> bool:
    weight = module._parameters.get("weight")
    return type(module).__name__.endswith(("RMSNorm", "LayerNorm")) and weight is not None and weight.shape == (width,)


def _input_width(module: nn.Module) -> int | None:
    """How wide what a module's matrix reads is: a linear layer's, a router's, or that of experts."""
    if is_experts(module):
        return matrix_of(module, projections(module)[0], 0).shape[1]
    weight = module._parameters.get("weight")
    if weight is None or weight.dim() != 2 or isinstance(module, nn.Embedding):
        return None
    return weight.shape[1 - output_axis(module)]


def _output_width(module: nn.Module) -> int | None:
    weight = module._parameters.get("weight")
    linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return weight.shape[output_axis(module)] if linear and weight is not None else None


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


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A random Hadamard matrix with unit rows, (size, size) float64; what is odd of the size is a random rotation.

    Source: Ashkboos et al., 2024, section 3.
    """
    power = size & -size
    found = torch.ones(1, 1, dtype=torch.float64)
    while len(found) < power:
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)]) / 2**0.5
    if power < size:
        drawn = torch.randn(size // power, size // power, generator=generator, dtype=torch.float64)
        found = torch.kron(torch.linalg.qr(drawn).Q.contiguous(), found)
    signs = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1
    return signs.double()[:, None] * found


def keeping_the_mean(size: int, generator: torch.Generator) -> Tensor:
    """A rotation under which a vector of mean zero stays one: it turns what is orthogonal to the ones vector."""
    drawn = torch.eye(size, dtype=torch.float64)
    drawn[:, 0] = size**-0.5
    basis = torch.linalg.qr(drawn).Q  # the first column is the ones vector's direction
    inner = torch.eye(size, dtype=torch.float64)
    inner[1:, 1:] = orthogonal(size - 1, generator)
    return basis @ inner @ basis.T


@torch.no_grad()
def rotate(loaded: Loaded, seed: int) -> int:
    """Turn a transformer's stream and its values in place; a head that shares its weights gets its own.

    Returns:
        how many layers were changed.
    Raises:
        InputError: if the model has no stream that is known, or its outputs change.
    """
    root = loaded.module
    stream = find_stream(root, trace(root, loaded.example))
    wanted = main_output(call(root, loaded.example)).double()
    for reader in [name for names in stream.readers.values() for name in names]:
        own = get_module(root, reader)._parameters.get("weight")
        if own is not None and any(own is get_module(root, name).weight for name in stream.embeddings):
            untie(loaded, reader)
    generator = torch.Generator().manual_seed(seed)
    norms = [get_module(root, name) for name in stream.readers]
    centred = any(type(norm).__name__.endswith("LayerNorm") and "RMS" not in type(norm).__name__ for norm in norms)
    turn = keeping_the_mean(stream.width, generator) if centred else orthogonal(stream.width, generator)
    turn = turn.to(tensor_of(norms[0]).device)
    for name, readers in stream.readers.items():
        gain = _take_gain(get_module(root, name), turn)
        for reader in readers:
            for matrix in _matrices(get_module(root, reader), reading=True):
                matrix.copy_(matrix.double() * gain @ turn)
    for name in stream.writers:
        for matrix in _matrices(get_module(root, name), reading=False):
            matrix.copy_(turn.T @ _centred(matrix.double(), 0, centred))
        for bias in _biases(get_module(root, name)):
            bias.copy_(_centred(bias.double(), -1, centred) @ turn)
    for name in stream.embeddings:
        rows = tensor_of(get_module(root, name))
        rows.copy_(_centred(rows.double(), 1, centred) @ turn)
    _rotate_values(root, stream, generator)
    found = main_output(call(root, loaded.example)).double()
    limit = _TOLERANCE_IN_HALVES if wanted.dtype in HALVES or tensor_of(norms[0]).dtype in HALVES else _TOLERANCE
    change = float((found - wanted).abs().max() / wanted.abs().max())
    if not change <= limit:
        raise InputError(
            f"rotate: the turned model gives other outputs (by {change:.1%} of the largest): something else than its "
            "linear layers reads the stream between its layers; leave rotate out"
        )
    return len(stream.writers) + sum(map(len, stream.readers.values())) + len(stream.embeddings)


def _centred(values: Tensor, dim: int, wanted: bool) -> Tensor:
    """Without its mean over the stream's channels, which normalizations take out anyway."""
    return values - values.mean(dim, keepdim=True) if wanted else values


def _take_gain(norm: nn.Module, turn: Tensor) -> Tensor:
    """A normalization's gains, which it no longer has; its bias, divided by them, turns with the stream."""
    weight = tensor_of(norm)
    stored = weight.double().clone()
    weight.zero_()  # some families add 1 to what they store
    probe = torch.linspace(-1, 1, len(weight), device=weight.device).to(weight.dtype)[None]
    shift = bias_of(norm)
    plain = norm(probe) - (0 if shift is None else shift)
    offset = 0.0 if float(plain.abs().max()) == 0 else 1.0
    gain = stored + offset
    weight.fill_(1 - offset)
    if shift is not None:
        if not gain.abs().min() > 0:
            raise InputError("rotate: a normalization has gains of zero, and a bias that cannot be moved behind them")
        shift.copy_(shift.double() / gain @ turn)
    return gain


def _matrices(module: nn.Module, *, reading: bool) -> list[Tensor]:
    """Views of a module's matrices on the stream's side, (out, in)."""
    if is_experts(module):
        name = projections(module)[0 if reading else 1]
        return [matrix_of(module, name, number) for number in range(len(getattr(module, name)))]
    weight = tensor_of(module)
    return [weight.T if output_axis(module) == 1 else weight]


def _biases(module: nn.Module) -> list[Tensor]:
    """Biases that a module adds to the stream."""
    found = getattr(module, f"{projections(module)[1]}_bias", None) if is_experts(module) else bias_of(module)
    return [] if found is None else [found]


def _rotate_values(root: nn.Module, stream: Stream, generator: torch.Generator) -> None:
    """Turn the values of attention inside each head, and turn them back where its output is made."""
    for values, outputs, head in stream.attentions:
        reader, layer = get_module(root, outputs), get_module(root, values)
        turn = orthogonal(head, generator).to(tensor_of(layer).device)
        for matrix in _matrices(layer, reading=False):
            blocks = matrix.double().reshape(-1, head, matrix.shape[1])
            matrix.copy_((turn.T @ blocks).reshape(matrix.shape))
        for bias in _biases(layer):
            bias.copy_((bias.double().reshape(-1, head) @ turn).flatten())
        for matrix in _matrices(reader, reading=True):
            matrix.copy_((matrix.double().reshape(len(matrix), -1, head) @ turn).reshape(matrix.shape))
