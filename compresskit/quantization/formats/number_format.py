"""What a number format is: how a weight matrix is held in few bits, and what computes with it. One object a format.

A quantized parameter is a set of named parts: `values`, the codes, and what the format keeps beside them (scales, zero
points, a codebook). The parts are tensors `PARAMETER_PART` of the layer, in the file too. A weight is seen as a matrix,
(rows, columns), one row an output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..layers.layer_spec import Spec
from ..options import QuantizeOptions

#: the parts of a quantized parameter; "values" are the codes of its weights
Parts = Mapping[str, Tensor]


class Stored(NamedTuple):
    """One part of a quantized parameter as a layer holds it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Literal["values", "scales", "codebooks"]  # what reports count its bytes as
    trained: bool = False  # a parameter that training tunes, else a buffer


@dataclass(frozen=True)
class Settings:
    """What chooses codes beside the weights themselves.

    Attributes:
        options: rounding, weight_search, codebook_start.
        second_moments: gives the mean of x x^T over the layer's inputs, where they were captured.
        seed: for methods that draw anything.
        smallest_scale: of each row of weights, (rows, 1), where kernels saturate below it.
        kernel: columns that belong to one input channel, side by side.
    """

    options: QuantizeOptions
    second_moments: Callable[[], Tensor] | None = None
    seed: int = 0
    smallest_scale: Tensor | None = None
    kernel: int = 1


class NumberFormat(Protocol):
    """How weights are held in few bits.

    Attributes:
        bits, granularity, group_size: what a scheme of this format's name takes where no option says otherwise.
        bits_range: the fewest and most bits that it can have.
        options: names of `quantize` options that it reads; others are refused with it.
        lowering: "integers" where its codes are uniform levels, which runtimes compute with; "constant" where an
            export holds the weights as floats.
    """

    bits: int
    granularity: Literal["tensor", "channel", "group"]
    group_size: int | None
    bits_range: tuple[int, int]
    options: frozenset[str]
    lowering: Literal["integers", "constant"]

    def geometry(self, bits: int, options: QuantizeOptions) -> dict[str, Any]:
        """Fields of a layer's Spec that the format decides."""
        ...

    def fitted(self, spec: Spec, matrices: list[Tensor]) -> Spec:
        """The spec once the layer's weights are known, each (rows, columns)."""
        ...

    def check(self, spec: Spec) -> None:
        """Raises InputError if no layer of this format has such a spec."""

    def stored(self, shape: torch.Size, spec: Spec) -> dict[str, Stored]:
        """The parts of a parameter of that shape."""
        ...

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The parts of a (rows, columns) float32 weight matrix; `values` as codes, (rows, columns)."""
        ...

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """The (rows, columns) weights that parts stand for; `values` as codes, (rows, columns)."""
        ...

    def pack(self, codes: Tensor, shape: torch.Size, spec: Spec) -> Tensor:
        """(rows, columns) codes as they are stored for a parameter of that shape."""
        ...

    def unpack(self, values: Tensor, shape: torch.Size, spec: Spec) -> Tensor:
        """Undo `pack`."""
        ...

    def bytes(self, rows: int, columns: int, spec: Spec) -> int:
        """Bytes of a weight matrix with all its parts."""
        ...

    def module(self, float_class: type[nn.Module], parameters: tuple[str, ...]) -> type[nn.Module]:
        """The class of a layer that computes with such weights, a subclass of the float layer's own."""
        ...

    def granularity_label(self, spec: Spec) -> str:
        """What reports say of which weights share a scale."""
        ...
