"""What number formats have in common: codes in their bits, one scale a tensor, channel or group, plain dequantizing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compresskit.core.errors import InputError

from ..layers.layer_spec import Spec
from ..layers.quantized_layer import from_matrix, matrix_shape, quantized_class, to_matrix
from ..options import QuantizeOptions
from ..tables import FORMATS
from . import uniform
from .fixed_groups.lookups import Lookup
from .number_format import Parts, Settings, Stored
from .packing import pack, packed_bytes, unpack

#: float16's smallest normal number; smaller scales would lose precision
_SMALLEST_HALF = 2.0**-14
_LARGEST_HALF = 65504.0


class BaseFormat:
    """A format whose codes are unsigned integers of `bits` bits with one scale a set of weights.

    A format of its own overrides `quantize` and `dequantize`, and `sides` if it keeps something else than scales.
    """

    bits: int = 8
    granularity: Literal["tensor", "channel", "group"] = "channel"
    group_size: int | None = None
    options: frozenset[str] = frozenset()
    lowering: Literal["integers", "constant"] = "constant"

    @property
    def bits_range(self) -> tuple[int, int]:
        """The fewest and most bits that it can have: its own."""
        return self.bits, self.bits

    def geometry(self, bits: int, options: QuantizeOptions) -> dict[str, Any]:
        """Fields of a layer's Spec that the format decides."""
        scheme = options.scheme_row()
        granularity = scheme.granularity if FORMATS.load(scheme.format) is self else self.granularity
        if "granularity" in self.options and options.granularity != "auto":
            granularity = options.granularity
        given = "group_size" in self.options and ("group_size" in options.model_fields_set or not self.group_size)
        group_size = options.group_size if given else self.group_size
        return {
            "bits": bits,
            "packed": bits < 8 and options.coding == "packed",
            "granularity": granularity,
            "group_size": group_size if granularity == "group" else None,
            "symmetric": True,
            # scales weigh little against 8-bit weights, and much against fewer bits
            "scale_type": "float16" if bits < 7 else "float32",
        }

    def fitted(self, spec: Spec, matrices: list[Tensor]) -> Spec:
        """The spec once the layer's weights are known."""
        return spec

    def check(self, spec: Spec) -> None:
        """Raises InputError if no layer of this format has such a spec."""
        fewest, most = self.bits_range
        if not fewest <= spec.bits <= most:
            raise InputError(f"a quantized layer of format {spec.format!r} cannot have bits={spec.bits!r}")
        if self.granularity == "group" and "granularity" not in self.options:
            self._check_groups(spec)

    def _check_groups(self, spec: Spec) -> None:
        """Raises InputError if scales are not those of groups, of this format's own size where no option sets it."""
        fixed = "group_size" not in self.options
        if spec.granularity != "group" or (fixed and spec.group_size != self.group_size):
            size = f" of {self.group_size}" if fixed else ""
            raise InputError(f"a quantized layer of format {spec.format!r} has groups{size}, not {spec.granularity!r}")

    def stored(self, shape: torch.Size, spec: Spec) -> dict[str, Stored]:
        """The parts of a parameter of that shape."""
        whole = (packed_bytes(shape.numel(), spec.bits),) if spec.packed else tuple(shape)
        values = Stored(whole, self.code_dtype(spec), "values")
        return {"values": values, **self.sides(*matrix_shape(shape, spec.axis), spec)}

    def code_dtype(self, spec: Spec) -> torch.dtype:
        """The type of stored codes."""
        return torch.uint8

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """What is kept beside the codes of a (rows, columns) matrix: scales, (1, 1), (rows, 1) or (rows, groups)."""
        groups = -(-columns // spec.needs_group_size()) if spec.granularity == "group" else 1
        shape = (1 if spec.granularity == "tensor" else rows, groups)
        return {"scale": Stored(shape, getattr(torch, spec.scale_type), "scales")}

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The parts of a (rows, columns) float32 weight matrix."""
        raise NotImplementedError

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """The (rows, columns) weights that parts stand for."""
        raise NotImplementedError

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """Parts as codes into a table, for files that hold them so; None where they are not that."""
        return None

    def pack(self, codes: Tensor, shape: torch.Size, spec: Spec) -> Tensor:
        """(rows, columns) codes as they are stored for a parameter of that shape."""
        if spec.packed:
            return pack(codes.to(torch.uint8), spec.bits)
        return from_matrix(codes, shape, spec.axis).to(self.code_dtype(spec))

    def unpack(self, values: Tensor, shape: torch.Size, spec: Spec) -> Tensor:
        """Undo `pack`."""
        if spec.packed:
            return unpack(values, spec.bits, shape.numel()).reshape(matrix_shape(shape, spec.axis))
        return to_matrix(values, spec.axis)

    def bytes(self, rows: int, columns: int, spec: Spec) -> int:
        """Bytes of a weight matrix with all its parts."""
        parts = self.stored(torch.Size((rows, columns)), replace(spec, axis=0)).values()
        return sum(math.prod(part.shape) * part.dtype.itemsize for part in parts)

    def module(self, float_class: type[nn.Module], parameters: tuple[str, ...]) -> type[nn.Module]:
        """The class of a layer that computes with such weights."""
        return quantized_class(float_class, parameters)  # type: ignore[arg-type]  # mypy takes no class for hashable

    def granularity_label(self, spec: Spec) -> str:
        """What reports say of which weights share a scale."""
        return spec.granularity


def wide_scale(parts: Parts, spec: Spec) -> Tensor:
    """The scales of parts, so that they broadcast against (rows, columns), in float32 at least."""
    scale = parts["scale"]
    scale = scale.float() if scale.dtype == torch.float16 else scale
    return uniform.expand_groups(scale, parts["values"].shape[1], spec.group_size)


def scale_type_for(scales: list[Tensor], spec: Spec, smallest: float = _SMALLEST_HALF) -> Spec:
    """The spec, with scales in float32 where float16 would lose a tiny one's precision or not hold a large one."""
    if spec.scale_type != "float16":
        return spec
    for scale in scales:
        used = scale[scale > uniform.SMALLEST_SCALE]
        if used.numel() and (float(used.min()) < smallest or float(used.max()) > _LARGEST_HALF):
            return replace(spec, scale_type="float32")
    return spec
