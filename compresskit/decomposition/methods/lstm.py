"""LSTMs whose input weights go through a rank: a narrow linear layer in front of each layer's fused recurrence.

The recurrent weights stay whole, so that the recurrence itself still runs in the library's fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ...core.errors import InputError
from ...core.tensors.modules import get_module, set_module, tensor_of
from ...core.types import Loaded
from ..options import DecomposeOptions
from ..ranks.evbmf import evbmf_rank
from .algebra import truncated_svd

KIND = "lstm-input"
_ARGUMENTS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")


class FactoredLSTM(nn.Module):
    """What nn.LSTM computes, layer by layer, with a projection in front of each layer; called like nn.LSTM.

    Args:
        input_size, hidden_size: as in nn.LSTM.
        ranks: one a layer; 0 leaves the layer's input weights whole.
        dropout: between layers, in training.
    """

    def __init__(
        self, input_size: int, hidden_size: int, ranks: list[int], *, bias: bool, batch_first: bool, dropout: float,
        bidirectional: bool, **place: Any,
    ):  # fmt: skip
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, len(ranks)
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.projections, self.layers = nn.ModuleList(), nn.ModuleList()
        directions = 2 if bidirectional else 1
        for number, rank in enumerate(ranks):
            wide = input_size if number == 0 else hidden_size * directions
            self.projections.append(nn.Linear(wide, rank, bias=False, **place) if rank else nn.Identity())
            options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional, **place}
            self.layers.append(nn.LSTM(rank or wide, hidden_size, **options))

    def flatten_parameters(self) -> None:
        """Some models call this on nn.LSTM before running it."""
        for layer in self.layers:
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()

    def forward(
        self, inputs: Tensor | PackedSequence, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        """Shapes and results as in nn.LSTM: inputs (batch, time, input_size) if batch_first, packed sequences too."""
        states: list[Any] = [None] * len(self.layers)
        if state is not None:
            states = list(zip(*(part.chunk(len(self.layers)) for part in state), strict=True))
        finals = []
        for number, (project, layer) in enumerate(zip(self.projections, self.layers, strict=True)):
            if number and self.dropout:
                inputs = _on_data(inputs, lambda x: nn.functional.dropout(x, self.dropout, self.training))
            inputs, final = layer(_on_data(inputs, project), states[number])
            finals.append(final)
        hidden, cell = (torch.cat(part) for part in zip(*finals, strict=True))
        return inputs, (hidden, cell)


def _on_data(inputs: Tensor | PackedSequence, function: Any) -> Tensor | PackedSequence:
    if isinstance(inputs, PackedSequence):
        return inputs._replace(data=function(inputs.data))
    return function(inputs)


def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, kind: "lstm-input", rank: [one a layer, 0 for whole]}: an empty FactoredLSTM in an LSTM's place.

    Raises:
        InputError: if the layer is no plain LSTM, or the ranks do not fit it.
    """
    layer = get_module(root, edit["target"])
    ranks = edit["rank"] if isinstance(edit["rank"], list) else [edit["rank"]]
    if not isinstance(layer, nn.LSTM) or not is_plain_lstm(layer):
        raise InputError(f"{edit['target']!r} is not an nn.LSTM without projection")
    if len(ranks) != layer.num_layers or not all(isinstance(rank, int) and rank >= 0 for rank in ranks):
        raise InputError(f"rank takes {layer.num_layers} numbers from 0 for {edit['target']!r}, got {ranks}")
    like = layer.weight_ih_l0
    factored = FactoredLSTM(
        layer.input_size, layer.hidden_size, ranks, bias=layer.bias, batch_first=layer.batch_first,
        dropout=layer.dropout, bidirectional=layer.bidirectional, device=like.device, dtype=like.dtype,
    )  # fmt: skip
    set_module(root, edit["target"], factored.train(layer.training))


def replay_merged(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, layer: {form: "lstm", and the arguments of nn.LSTM}}: an empty nn.LSTM in a FactoredLSTM's place.

    Raises:
        InputError: if there is no FactoredLSTM, or the record lacks an argument.
    """
    factored = get_module(root, edit["target"])
    record = {name: value for name, value in edit["layer"].items() if name != "form"}
    if not isinstance(factored, FactoredLSTM):
        raise InputError(f"{edit['target']!r} is a {type(factored).__name__}, not a factored LSTM")
    if sorted(record) != sorted(_ARGUMENTS):
        raise InputError(f"a record of an LSTM has the fields {', '.join(_ARGUMENTS)}, got {', '.join(record)}")
    like = factored.layers[0].weight_hh_l0
    set_module(root, edit["target"], nn.LSTM(**record, device=like.device, dtype=like.dtype).train(factored.training))


@torch.no_grad()
def merge(root: nn.Module, target: str) -> dict[str, Any]:
    """Turn a FactoredLSTM back into one nn.LSTM, in place, and return the "merged" edit."""
    factored = get_module(root, target)
    if not isinstance(factored, FactoredLSTM):
        raise TypeError(f"{target} is a {type(factored).__name__}")
    record = {name: getattr(factored, name) for name in _ARGUMENTS}
    edit = {"op": "merged", "target": target, "layer": {"form": "lstm", **record}}
    replay_merged(root, edit)
    lstm = get_module(root, target)
    for number, (project, layer) in enumerate(zip(factored.projections, factored.layers, strict=True)):
        for name, parameter in layer.named_parameters():
            whole: Tensor = parameter
            if name.startswith("weight_ih") and isinstance(project, nn.Linear):
                whole = (parameter.double() @ project.weight.double()).to(parameter.dtype)
            getattr(lstm, name.replace("_l0", f"_l{number}")).copy_(whole)
    return edit


def decompose_lstms(
    loaded: Loaded, options: DecomposeOptions, faster: Callable[[str, nn.Module], bool] | None = None
) -> list[dict[str, Any]]:
    """Factor the input weights of every plain LSTM where that saves, in place, by the options' rank rule.

    A budget does not cover LSTMs; with it, each is factored by the option `energy`.

    Args:
        faster: (name, the LSTM) -> whether what stands in its place now takes less time; None takes all.
    Returns:
        one table row for each LSTM layer.
    """
    lstms = {name: module for name, module in loaded.module.named_modules() if name and is_plain_lstm(module)}
    rows = []
    for name, lstm in lstms.items():
        if any(fnmatchcase(name, pattern) for pattern in options.skip):
            continue
        if options.layers and not any(fnmatchcase(name, pattern) for pattern in options.layers):
            continue
        parts, stays = [_factor_layer(lstm, number, options) for number in range(lstm.num_layers)], "kept"
        ranks = [part[0] for part in parts]
        if any(ranks):
            edit = {"op": "factored", "target": name, "kind": KIND, "rank": ranks}
            replay(loaded.module, edit)
            factored = get_module(loaded.module, name)
            if isinstance(factored, FactoredLSTM):
                _fill(factored, lstm, parts)
            if faster is None or faster(name, lstm):
                loaded.edits.append(edit)
            else:
                set_module(loaded.module, name, lstm)
                parts, stays = [(0, 0.0, None)] * len(parts), "kept: its factors take more time"
        rows += [
            {
                "layer": f"{name} layer {number}",
                "kind": KIND if rank else stays,
                "rank": rank or "",
                "error": round(error, 4),
            }
            for number, (rank, error, _) in enumerate(parts)
        ]
    return rows


def is_plain_lstm(module: nn.Module) -> TypeGuard[nn.LSTM]:
    """Whether a module is exactly nn.LSTM, without the projection of its hidden state."""
    return type(module) is nn.LSTM and not module.proj_size


def _suffixes(lstm: nn.LSTM, number: int) -> list[str]:
    return [f"_l{number}"] + ([f"_l{number}_reverse"] if lstm.bidirectional else [])


def _factor_layer(
    lstm: nn.LSTM, number: int, options: DecomposeOptions
) -> tuple[int, float, tuple[Tensor, Tensor] | None]:
    """(rank or 0, relative error, (gates of all directions x rank, rank x inputs)) of one layer's input weights."""
    weights = [getattr(lstm, f"weight_ih{suffix}").detach().double() for suffix in _suffixes(lstm, number)]
    matrix = torch.cat(weights)  # both directions read the same inputs, so they share one projection
    rows, columns = matrix.shape
    singular = torch.linalg.svdvals(matrix).square()
    tails = torch.cat([singular.flip(0).cumsum(0).flip(0), singular.new_zeros(1)]) / singular.sum()
    rank = input_rank(tails, matrix, options)
    if not 0 < rank * (rows + columns) < rows * columns:
        return 0, 0.0, None
    return rank, float(tails[rank].sqrt()), truncated_svd(matrix, rank)


def input_rank(tails: Tensor, matrix: Tensor, options: DecomposeOptions) -> int:
    """The rank of an input matrix by the options' rule, rounded up to a multiple.

    Args:
        tails: share of the squared norm that each rank from 0 cuts off.
    """
    rows, columns = matrix.shape
    if options.rank_by == "fixed":
        rank = options.rank
    elif options.rank_by == "keep-ratio":
        return int(options.keep_ratio * rows * columns / (rows + columns)) // options.round_to * options.round_to
    elif options.rank_by == "evbmf":
        rank = evbmf_rank(matrix)
    else:
        allowed = options.max_error**2 if options.rank_by == "error" else 1 - options.energy
        rank = int((tails > allowed + 1e-12).sum())
    return min(-(-rank // options.round_to) * options.round_to, *matrix.shape)


@torch.no_grad()
def _fill(factored: FactoredLSTM, lstm: nn.LSTM, parts: list[tuple[int, float, tuple[Tensor, Tensor] | None]]) -> None:
    for number, (_, _, factors) in enumerate(parts):
        layer = factored.layers[number]
        for name, parameter in layer.named_parameters():
            source = getattr(lstm, name.replace("_l0", f"_l{number}"))
            if not (factors and name.startswith("weight_ih")):
                parameter.copy_(source)
        if factors:
            gates, projection = factors
            tensor_of(factored.projections[number]).copy_(projection)
            names = [f"weight_ih{suffix.replace(f'_l{number}', '_l0')}" for suffix in _suffixes(lstm, number)]
            for name, own in zip(names, gates.chunk(len(names)), strict=True):
                getattr(layer, name).copy_(own)
