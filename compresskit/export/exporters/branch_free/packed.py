"""Recurrent layers on sequences of several lengths, without packing: a graph has no number of rows for each step.

A packed sequence is (batch, steps, features) with its lengths in the place of batch sizes; torch's own has two
dimensions, by which they are told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

#: what gates get for steps behind a sequence's end: their sigmoid is exactly 0 or 1
_SHUT = 1e4


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """torch's function of the name; rows keep their order."""
    rows = input if batch_first else input.transpose(0, 1)
    return PackedSequence(rows, torch.as_tensor(lengths, dtype=torch.int64))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """torch's function of the name: as many steps as the longest sequence has, or `total_length`."""
    rows, lengths = sequence.data, sequence.batch_sizes
    rows = torch.where(_within(rows, lengths), rows, padding_value)
    if total_length is None:
        longest = lengths.max().item()
        torch._check(longest >= 0)
        torch._check(longest <= rows.shape[1])
        rows = rows[:, :longest]
    elif total_length is not rows.shape[1]:
        rows = nn.functional.pad(rows, (0, 0, 0, total_length - rows.shape[1]), value=padding_value)
    return rows if batch_first else rows.transpose(0, 1), lengths


def on_lengths(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer's forward that takes such sequences, too."""

    def forwards(self: nn.RNNBase, input: Any, hx: Any = None) -> Any:
        if not isinstance(input, PackedSequence) or input.data.dim() != 3:
            return forward(self, input, hx)
        rows, states = _layers(self, input.data, input.batch_sizes, hx)
        found = states if self.mode == "LSTM" else states[0]
        return PackedSequence(rows, input.batch_sizes), found

    return forwards


def _layers(layer: nn.RNNBase, rows: Tensor, lengths: Tensor, first: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs (batch, steps, width), and the states at each sequence's end."""
    directions = 1 + layer.bidirectional
    first = first if first is None or isinstance(first, tuple) else (first,)
    weights = [weight for weight in layer._flat_weights if weight is not None]
    held = len(layer._all_weights[0])
    ends = []
    for number in range(layer.num_layers):
        outputs = []
        for place in range(number * directions, (number + 1) * directions):
            backwards = place % directions == 1
            seen = _turned(rows, lengths) if backwards else rows
            start = _start(layer, seen) if first is None else tuple(state[place : place + 1] for state in first)
            output, end = _one(layer, seen, lengths, start, weights[place * held : (place + 1) * held])
            ends.append(end)
            outputs.append(_turned(output, lengths) if backwards else output)
        rows = outputs[0] if directions == 1 else torch.cat(outputs, 2)
    return rows, tuple(torch.stack(parts) for parts in zip(*ends, strict=True))


def _one(
    layer: nn.RNNBase, rows: Tensor, lengths: Tensor, start: tuple[Tensor, ...], weights: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction: outputs, and its states at the ends."""
    rest = (layer.bias, 1, 0.0, False, False, True)
    if layer.mode != "LSTM":
        operator = {"GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}[layer.mode]
        output, _ = operator(rows, start[0], weights, *rest)
        return output, (_last(output, lengths),)
    output, _, _ = torch.lstm(rows, start, weights, *rest)
    # the cell, which is no output: once more with gates that keep it from the end on; goes away where nothing reads it
    behind = (~_within(rows, lengths)).to(rows.dtype)
    shut = weights[0].new_tensor([-_SHUT, _SHUT, 0.0, 0.0]).repeat_interleave(layer.hidden_size)
    kept = [torch.cat([weights[0], shut[:, None]], 1), *weights[1:]]
    _, _, cell = torch.lstm(torch.cat([rows, behind], 2), start, kept, *rest)
    return output, (_last(output, lengths), cell[0])


def _start(layer: nn.RNNBase, rows: Tensor) -> tuple[Tensor, ...]:
    width = layer.proj_size or layer.hidden_size
    state = rows.new_zeros(1, rows.shape[0], width)
    return (state, rows.new_zeros(1, rows.shape[0], layer.hidden_size)) if layer.mode == "LSTM" else (state,)


def _within(rows: Tensor, lengths: Tensor) -> Tensor:
    """(batch, steps, 1): whether a step belongs to its sequence."""
    return (torch.arange(rows.shape[1]) < lengths[:, None])[..., None]


def _turned(rows: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence backwards, what fills it up left where it is."""
    steps = torch.arange(rows.shape[1])
    source = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return rows.gather(1, source[..., None].expand(-1, -1, rows.shape[2]))


def _last(rows: Tensor, lengths: Tensor) -> Tensor:
    """The last step of each sequence; (batch, width)."""
    return rows.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, rows.shape[2]))[:, 0]
