"""What one forward does and holds, in the counts that costs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...artifact.codecs.storage import CODECS
from ...core.costs import cost_of, field_of, names
from ...core.errors import InputError
from ...core.types import Inputs, Loaded
from .macs import count_macs
from .measure import parameter_count

_BITS_A_BYTE = 8


class Counts(Protocol):
    """What the formulas of costs read: a `Work`, or one whose counts are computed when they are asked for."""

    @property
    def macs(self) -> Mapping[int, float]: ...

    @property
    def params(self) -> float: ...

    @property
    def stored_bytes(self) -> float: ...

    @property
    def read_bytes(self) -> float: ...

    @property
    def activation_bytes(self) -> float: ...


@dataclass(frozen=True)
class Work:
    """Counts of one forward at the example's size. Costs are linear in them, so what parts of a model cost adds up.

    Attributes:
        macs: bits of the operands -> multiply-accumulates.
        params: weights that the model computes with.
        stored_bytes: bytes of its tensors as they are stored.
        read_bytes: bytes of the tensors that a forward reads as a whole; embedding tables are looked up.
        activation_bytes: bytes of the outputs of operations that multiply and sum.
    """

    macs: Mapping[int, float] = field(default_factory=dict)
    params: float = 0.0
    stored_bytes: float = 0.0
    read_bytes: float = 0.0
    activation_bytes: float = 0.0


@torch.no_grad()
def work_of(loaded: Loaded, inputs: Inputs | None = None) -> Work:
    """The work of a model, counted while it runs.

    Args:
        loaded: the model.
        inputs: one batch; None takes the example.
    """
    module = loaded.module
    counted = count_macs(module, loaded.example if inputs is None else inputs)
    modules, default = dict(module.named_modules()), float_bits(module)
    macs: dict[int, float] = {}
    for name, count in counted.by_module.items():
        bits = _operand_bits(modules[name], default)
        macs[bits] = macs.get(bits, 0) + count
    stored = read = 0
    for name, tensor, is_table, is_saved in _tensors(module):
        size_bytes = _stored_bytes(tensor, loaded.storage.get(name))
        stored += size_bytes if is_saved else 0
        read += 0 if is_table else size_bytes
    return Work(macs, parameter_count(module), stored, read, counted.output_bytes)


def figure_of(name: str, loaded: Loaded, inputs: Inputs | None = None, work: Work | None = None) -> float | None:
    """The figure of a cost of a model.

    Args:
        name: a row of `costs.COSTS` that is not timed.
        loaded: the model.
        inputs: one batch; None takes the example.
        work: its work, where that has been counted.
    Returns:
        the figure in the row's unit, or None where it can't be measured here.
    """
    cost = cost_of(name)
    measure = cost.measure()
    inputs = loaded.example if inputs is None else inputs
    if measure is not None:
        found = measure(loaded, inputs)
    else:
        found = cost.formula()(work_of(loaded, inputs) if work is None else work)
    return round(found) if found is not None and cost.is_counted else found


def whole_figure(name: str, loaded: Loaded) -> float:
    """The figure of a cost of a whole model, which shares are of.

    Raises:
        InputError: if it can't be measured here.
    """
    found = figure_of(name, loaded)
    if not found:
        raise InputError(f"{field_of(name)}: {cost_of(name).noun} is not measured here; give another target")
    return found


def figures_of(
    loaded: Loaded, inputs: Inputs | None = None, *, own: tuple[str, ...] = (), **known: float
) -> dict[str, float | None]:
    """The figures of all costs but timed ones, by their keys in reports.

    Args:
        loaded: the model.
        inputs: one batch; None takes the example.
        own: costs of the user's own that count, too.
        known: figures that need no measuring, by key.
    """
    work = work_of(loaded, inputs)
    return {
        cost_of(name).figure: known.get(cost_of(name).figure) or figure_of(name, loaded, inputs, work)
        for name in (*names("exact", "predicted"), *own)
    }


def exact_costs(work: Counts, wanted: tuple[str, ...] | None = None) -> dict[str, float]:
    """Costs that follow from work: name -> figure.

    Args:
        wanted: the costs; None for all that are exact.
    """
    return {name: cost_of(name).formula()(work) for name in (names("exact") if wanted is None else wanted)}


def float_bits(module: nn.Module) -> int:
    """Bits of the numbers that a module's floating parameters are held in; 32 where it has none."""
    floats = (p for p in module.parameters() if p.is_floating_point())
    return next((_BITS_A_BYTE * p.element_size() for p in floats), 32)


def _operand_bits(module: nn.Module, default: int) -> int:
    """Bits of what a module multiplies: its own word (`mac_bits`, of layers with integer inputs), else its weights'."""
    own: Any = getattr(module, "mac_bits", None)
    if own:
        return int(own)
    floats = (p for p in module.parameters(recurse=False) if p.is_floating_point())
    return next((_BITS_A_BYTE * p.element_size() for p in floats), default)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor, bool, bool]]:
    """(name, tensor, whether it is only looked up, whether it is saved) of parameters and buffers, tied ones once."""
    found: dict[int, tuple[str, Tensor, bool, bool]] = {}
    for path, child in module.named_modules():
        looked_up = isinstance(child, nn.Embedding | nn.EmbeddingBag)
        for name, tensor in [*child._parameters.items(), *child._buffers.items()]:
            if tensor is None:
                continue
            saved = name not in child._non_persistent_buffers_set
            full = f"{path}.{name}" if path else name
            first, _, was_looked_up, was_saved = found.get(id(tensor), (full, tensor, True, False))
            found[id(tensor)] = (first, tensor, was_looked_up and looked_up, was_saved or saved)
    return list(found.values())


def _stored_bytes(tensor: Tensor, codec: str | None) -> int:
    if codec is None:
        return tensor.numel() * tensor.element_size()
    return sum(part.numel() * part.element_size() for part in CODECS.load(codec).encode(tensor).values())
