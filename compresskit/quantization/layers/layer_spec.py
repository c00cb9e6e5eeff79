"""The geometry of a quantized layer, as data. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from compresskit.core.errors import InputError
from compresskit.core.manifest.edit_records import LARGEST_SIZE, EditRecord, Name
from compresskit.core.registry import is_reference

from ..tables import FORMATS

_GRANULARITIES = ("tensor", "channel", "group")
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_ACTIVATIONS = ("none", "static", "dynamic")

#: axes of stacks of matrices, whose rows stand one matrix after the other: (n, out, in), and (n, in, out)
STACK, TURNED_STACK = 2, 3


@dataclass(frozen=True)
class Spec:
    """Final geometry of a quantized layer; JSON-able.

    Attributes:
        parameters: names of the quantized parameters; none for a module that only quantizes its output.
        weight_dtype: number type of the float weights, in which the layer computes.
        format: how weights are held, a row of FORMATS.
        bits: bits a weight.
        granularity, group_size: which weights share a scale; the group size is None but for "group".
        symmetric: weights have no stored zero point.
        axis: the dimension of the parameter that counts output channels; STACK or TURNED_STACK for stacks of matrices.
        packed: values stand in `bits` bits each; else a byte each, in the parameter's shape.
        scale_type: number type of stored scales, "float32" or "float16".
        zero_index: a codebook's index 0 stands for exactly zero, and the codebook holds the others only.
        input, input_bits, input_symmetric: how the first input is quantized before the layer.
        input_ranges: of a dynamic input: one range for the whole tensor, one a token (all channels of a position), or
            one a channel.
        input_multiplier: the input is multiplied, channel by channel, before it is quantized.
        output, output_bits, output_symmetric: how the output is quantized after the layer.
        operands: how many tensors the products of activations read that the module itself runs; each is quantized.
        operand_ranges, operand_bits, operand_symmetric: how they are quantized.
    """

    parameters: tuple[str, ...] = ()
    weight_dtype: str = "float32"
    format: str = "int"
    bits: int = 8
    granularity: str = "channel"
    group_size: int | None = None
    symmetric: bool = True
    axis: int = 0
    packed: bool = False
    scale_type: str = "float32"
    zero_index: bool = False
    input: str = "none"
    input_bits: int = 8
    input_symmetric: bool = False
    input_ranges: str = "tensor"
    input_multiplier: bool = False
    output: str = "none"
    output_bits: int = 8
    output_symmetric: bool = False
    operands: int = 0
    operand_ranges: str = "static"
    operand_bits: int = 8
    operand_symmetric: bool = False

    def needs_group_size(self) -> int:
        """The group size of weights that share scales in groups.

        Raises:
            ValueError: of other weights.
        """
        if self.group_size is None:
            raise ValueError(f"granularity {self.granularity!r} has no groups")
        return self.group_size

    def as_edit(self, target: str) -> dict[str, Any]:
        """The edit that makes such a layer of the layer at target; fields at their default are left out."""
        plain = asdict(Spec())
        record = {key: value for key, value in asdict(self).items() if value != plain[key]}
        if self.parameters:
            record = {"parameters": list(self.parameters), "format": self.format, "bits": self.bits} | record
            record["parameters"] = list(self.parameters)
        return {"op": "quantized", "target": target, **record}


def _is_format(name: object) -> bool:
    """Whether a name is that of a number format as far as can be said without running code."""
    return isinstance(name, str) and (name in FORMATS or is_reference(name))


def _format(name: str) -> str:
    if not _is_format(name):
        raise ValueError(FORMATS.unknown(name))
    return name


_Bits = Annotated[int, Field(ge=1, le=8)]
_MOST_OPERANDS = 64


class QuantizedRecord(EditRecord):
    """The types of a "quantized" edit's keys; `spec_from_edit` checks which values go together."""

    parameters: Annotated[list[Name], Field(max_length=64)] = []
    weight_dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float32"
    format: Annotated[Name, AfterValidator(_format)] = "int"
    bits: _Bits = 8
    granularity: Literal["tensor", "channel", "group"] = "channel"
    group_size: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] | None = None
    symmetric: bool = True
    axis: Annotated[int, Field(ge=0, le=TURNED_STACK)] = 0
    packed: bool = False
    scale_type: Literal["float32", "float16"] = "float32"
    zero_index: bool = False
    input: Literal["none", "static", "dynamic"] = "none"
    input_bits: _Bits = 8
    input_symmetric: bool = False
    input_ranges: Literal["tensor", "token", "channel"] = "tensor"
    input_multiplier: bool = False
    output: Literal["none", "static"] = "none"
    output_bits: _Bits = 8
    output_symmetric: bool = False
    operands: Annotated[int, Field(ge=0, le=_MOST_OPERANDS)] = 0
    operand_ranges: Literal["static", "dynamic"] = "static"
    operand_bits: _Bits = 8
    operand_symmetric: bool = False


def spec_from_edit(edit: dict[str, Any]) -> Spec:
    """Read and check the body of a "quantized" edit.

    Raises:
        InputError: if a key is unknown or a value is not one that a layer can have.
    """
    body = {key: value for key, value in edit.items() if key not in ("op", "target")}
    unknown = sorted(set(body) - {field.name for field in fields(Spec)})
    if unknown:
        raise InputError(f"a quantized layer has no {', '.join(map(repr, unknown))}")
    body["parameters"] = tuple(body.get("parameters", ()))
    spec = Spec(**body)
    group_ok = (
        isinstance(spec.group_size, int) and spec.group_size > 0
        if spec.granularity == "group"
        else spec.group_size is None
    )
    checks = {
        "weight_dtype": spec.weight_dtype in _FLOATS,
        "format": _is_format(spec.format),
        "bits": spec.bits in range(1, 9),
        "granularity": spec.granularity in _GRANULARITIES,
        "group_size": group_ok,
        "axis": spec.axis in range(TURNED_STACK + 1),
        "scale_type": spec.scale_type in ("float32", "float16"),
        "input": spec.input in _ACTIVATIONS,
        "output": spec.output in ("none", "static"),
        "input_bits": spec.input_bits in range(2, 9),
        "input_ranges": spec.input_ranges in ("tensor", "token", "channel"),
        "output_bits": spec.output_bits in range(2, 9),
        "operands": isinstance(spec.operands, int) and spec.operands >= 0,
        "operand_ranges": spec.operand_ranges in ("static", "dynamic"),
        "operand_bits": spec.operand_bits in range(2, 9),
        "parameters": all(isinstance(name, str) for name in spec.parameters),
    }
    for key, valid in checks.items():
        if not valid:
            raise InputError(f"a quantized layer cannot have {key}={getattr(spec, key)!r}")
    return spec
