"""Turning what flows between a transformer's layers, folded into the weights: the model computes what it did.

The stream x becomes x Q with an orthogonal Q. What writes into it gives Q^T W, what reads it takes W Q, and
normalizations in between, their gains moved into the readers, turn with it. The same can be done inside attention, head
by head, to values.

Source: Ashkboos et al., "SliceGPT", ICLR 2024, section 3; for values Ashkboos et al., "QuaRot", NeurIPS 2024,
    section 4, stage 1b.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.tensors.dtypes import HALVES
from ...core.tensors.modules import bias_of, get_module, tensor_of
from ...core.types import Loaded, call, main_output
from ...model.libraries.experts import is_experts, matrix_of, projections
from ..calibration.im2col import is_transformers_linear
from .own_heads import untie
from .stream import Stream

#: largest change of the outputs, as a share of the largest, that counts as rounding
_TOLERANCE, _TOLERANCE_IN_HALVES = 1e-3, 0.1


@torch.no_grad()
def turn_stream(
    loaded: Loaded, stream: Stream, turn: Tensor, turn_of_values: Callable[[int], Tensor] | None = None
) -> None:
    """Turn a transformer's stream in place; a head that shares its weights with the embedding gets its own.

    Args:
        loaded: the model.
        stream: as `find_stream` finds it.
        turn: an orthogonal matrix, (width, width) float64; where the stream is centred one that takes vectors of mean
            zero to such.
        turn_of_values: the one of an attention's values, by the width of a head; None leaves them.
    Raises:
        InputError: if the outputs change.
    """
    root = loaded.module
    wanted = main_output(call(root, loaded.example)).double()
    for reader in tied_readers(root, stream):
        untie(loaded, reader)
    norms = [get_module(root, name) for name in stream.readers]
    turn = turn.to(tensor_of(norms[0]).device)
    for name, readers in stream.readers.items():
        gain = _take_gain(get_module(root, name), turn)
        for reader in readers:
            for matrix in _matrices(get_module(root, reader), reading=True):
                matrix.copy_(matrix.double() * gain @ turn)
    for name in stream.writers:
        for matrix in _matrices(get_module(root, name), reading=False):
            matrix.copy_(turn.T @ _centred(matrix.double(), 0, stream.centred))
        for bias in _biases(get_module(root, name)):
            bias.copy_(_centred(bias.double(), -1, stream.centred) @ turn)
    for name in stream.embeddings:
        rows = tensor_of(get_module(root, name))
        rows.copy_(_centred(rows.double(), 1, stream.centred) @ turn)
    if turn_of_values is not None:
        _turn_values(root, stream, turn_of_values)
    found = main_output(call(root, loaded.example)).double()
    limit = _TOLERANCE_IN_HALVES if wanted.dtype in HALVES or tensor_of(norms[0]).dtype in HALVES else _TOLERANCE
    change = float((found - wanted).abs().max() / wanted.abs().max())
    if not change <= limit:
        raise InputError(
            f"rotate: the turned model gives other outputs (by {change:.1%} of the largest): something else than its "
            "linear layers reads the stream between its layers; leave rotate out"
        )


def tied_readers(root: nn.Module, stream: Stream) -> list[str]:
    """Layers that read a stream with a weight that is an embedding's, too."""
    tables = {id(tensor_of(get_module(root, name))) for name in stream.embeddings}
    readers = (name for names in stream.readers.values() for name in names)
    return [name for name in readers if id(get_module(root, name)._parameters.get("weight")) in tables]


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
    return [weight.T if is_transformers_linear(module) else weight]


def _biases(module: nn.Module) -> list[Tensor]:
    """Biases that a module adds to the stream."""
    found = getattr(module, f"{projections(module)[1]}_bias", None) if is_experts(module) else bias_of(module)
    return [] if found is None else [found]


def _turn_values(root: nn.Module, stream: Stream, turns: Callable[[int], Tensor]) -> None:
    """Turn the values of attention inside each head, and turn them back where its output is made."""
    for values, outputs, head in stream.attentions:
        reader, layer = get_module(root, outputs), get_module(root, values)
        turn = turns(head).to(tensor_of(layer).device)
        for matrix in _matrices(layer, reading=False):
            blocks = matrix.double().reshape(-1, head, matrix.shape[1])
            matrix.copy_((turn.T @ blocks).reshape(matrix.shape))
        for bias in _biases(layer):
            bias.copy_((bias.double().reshape(-1, head) @ turn).flatten())
        for matrix in _matrices(reader, reading=True):
            matrix.copy_((matrix.double().reshape(len(matrix), -1, head) @ turn).reshape(matrix.shape))
