"""What a trace writes down: stored tensors, numbers that must hold after a cut, and costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .symbolic_int import Axis, Expr


@dataclass(frozen=True, eq=False)
class Count:
    """A number that must equal how many positions stay along an axis."""

    axis: Axis
    expr: Expr
    site: str


@dataclass(frozen=True, eq=False)
class Cost:
    """Multiply-accumulates of one contraction: a constant times the kept positions of each axis."""

    constant: int
    axes: tuple[Axis, ...]
    site: str


@dataclass(eq=False)
class Stored:
    """A parameter or buffer: every name it goes by, and the ids along its dimensions."""

    names: list[str]
    tensor: Tensor
    planes: list[Tensor] = field(default_factory=list)
    ids: list[Tensor] = field(default_factory=list)  # one (size,) tensor a dimension
    stays: str = ""  # why nothing of it can go, if so
    persistent: bool = True
    used: bool = False
    looked_up: bool = True  # whether all that hold it are embeddings
