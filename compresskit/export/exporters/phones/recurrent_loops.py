"""Recurrent layers as loops of a graph, one step each: written out, every step would be compiled by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

#: (state, step's input, weights) -> (next state, output)
Step = Callable[..., tuple[Tensor, ...]]


def with_loops(program: torch.export.ExportedProgram) -> tuple[torch.export.ExportedProgram, int]:
    """A program whose GRUs, LSTMs and plain recurrent layers are loops, and how many operators those were."""
    table = _table()
    count = sum(node.target in table for node in program.graph.nodes)
    if not count:
        return program, 0
    with torch.no_grad():
        return program.run_decompositions(table), count


def _table() -> dict[Any, Callable[..., Any]]:
    aten = torch.ops.aten
    return {
        aten.gru.input: partial(_one_state, _gru_step),
        aten.rnn_tanh.input: partial(_one_state, partial(_plain_step, torch.tanh)),
        aten.rnn_relu.input: partial(_one_state, partial(_plain_step, torch.relu)),
        aten.lstm.input: lambda values, states, *rest: (lambda found: (found[0], *found[1]))(
            _layers(_lstm_step, states, values, *rest)
        ),
    }


def _one_state(step: Step, values: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    outputs, (last,) = _layers(step, [state], values, *rest)
    return outputs, last


def _layers(
    step: Step,
    states: Sequence[Tensor],
    values: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    _dropout: float,
    _train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Outputs and last states of stacked layers, as torch's operators return them.

    Args:
        step: one step of a layer.
        states: first states, each (layers * directions, batch, width).
        values: (batch, steps, features), or steps first.
        params: of each layer and direction: input and hidden weights, their biases where there are any, and the
            weights of a projection where there is one.
    """
    from torch._higher_order_ops.scan import scan_op  # brings torch's compiler: late

    values = values.transpose(0, 1) if batch_first else values
    directions, last = 1 + bidirectional, []
    held = len(params) // (num_layers * directions)
    for layer in range(num_layers):
        outputs = []
        for place in range(layer * directions, (layer + 1) * directions):
            of_input, of_state, *others = params[place * held : (place + 1) * held]
            biases, projection = (others[:2], others[2:]) if has_biases else ([], others)
            seen = torch.nn.functional.linear(values, of_input, biases[0] if biases else None)
            backwards = place % directions == 1
            seen = seen.flip(0) if backwards else seen
            bias = biases[1] if biases else of_state.new_zeros(len(of_state))
            first = [state[place] for state in states]
            *end, output = scan_op(step, first, [seen], (of_state, bias, *projection))
            outputs.append(output.flip(0) if backwards else output)
            last.append(end)
        values = outputs[0] if directions == 1 else torch.cat(outputs, 2)
    ends = [torch.stack(parts) for parts in zip(*last, strict=True)]
    return values.transpose(0, 1) if batch_first else values, ends


def _product(state: Tensor, weight: Tensor) -> Tensor:
    """state @ weight.T, the state turned in the place of the weight: portable kernels copy what is turned."""
    return torch.mm(weight, state.t()).t()


def _gru_step(state: Tensor, seen: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    reset, update, new = seen.chunk(3, 1)
    of_reset, of_update, of_new = (_product(state, weight) + bias).chunk(3, 1)
    candidate = (new + (reset + of_reset).sigmoid() * of_new).tanh()
    state = candidate + (update + of_update).sigmoid() * (state - candidate)
    return state, state.clone()


def _lstm_step(
    state: Tensor, cell: Tensor, seen: Tensor, weight: Tensor, bias: Tensor, *projection: Tensor
) -> tuple[Tensor, ...]:
    enter, forget, new, leave = (seen + _product(state, weight) + bias).chunk(4, 1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    state = leave.sigmoid() * cell.tanh()
    state = _product(state, projection[0]).contiguous() if projection else state
    return state, cell, state.clone()


def _plain_step(
    function: Callable[[Tensor], Tensor], state: Tensor, seen: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    state = function(seen + _product(state, weight) + bias)
    return state, state.clone()
