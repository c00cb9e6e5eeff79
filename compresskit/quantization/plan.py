"""Which layers are quantized, and how each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.dtypes import FLOATS
from compresskit.core.tensors.modules import match_names

from ..analysis.dataflow import Trace, shared_parameters
from .formats.layer_spec import Spec
from .formats.layers import Quantized, output_axis
from .options import QuantizeOptions

_WEIGHTED = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Embedding, nn.EmbeddingBag,
)  # fmt: skip


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is going to be quantized; `fixed` where a pattern or the first/last policy decided its bits."""

    name: str
    spec: Spec
    fixed: bool = False


def quantizable_parameters(layer: nn.Module) -> tuple[str, ...]:
    """Names of the weights of a layer that can be quantized; () for other modules."""
    if isinstance(layer, Quantized):
        return ()
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        names = [name for name in layer._parameters if name.startswith("weight")]
    elif isinstance(layer, nn.MultiheadAttention):
        names = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
    elif isinstance(layer, _WEIGHTED) or type(layer).__name__ == "Conv1D":
        names = ["weight"]
    else:
        return ()
    return tuple(name for name in names if _quantizable(layer._parameters.get(name)))


def _quantizable(weight: Tensor | None) -> bool:
    """Whether a weight holds floats; complex ones and what is stored in 8 bits already have no grid here."""
    return weight is not None and weight.dtype in FLOATS and weight.numel() > 0


def candidates(root: nn.Module) -> tuple[list[str], list[str]]:
    """Layers whose weights can be quantized, and those left out because another layer shares their weights."""
    shared = shared_parameters(root)
    names, tied = [], []
    for name, layer in root.named_modules():
        parameters = quantizable_parameters(layer)
        if parameters:
            held_in_common = any(f"{name}.{parameter}".lstrip(".") in shared for parameter in parameters)
            (tied if held_in_common else names).append(name)
    return names, tied


def make_plan(
    root: nn.Module, record: Trace, options: QuantizeOptions, products: Iterable[str] = ()
) -> tuple[list[LayerPlan], list[str]]:
    """The layers to quantize with their specs, and notes on what was left out.

    Args:
        root: the model.
        record: a trace of it.
        options: scheme, bits and layer patterns.
        products: modules without weights of their own that `layers` and `skip` may name too.
    Raises:
        InputError: if a pattern matches no layer, or nothing is left to quantize.
    """
    names, tied = candidates(root)
    notes = [f"{name} stays in float: another layer shares its weights" for name in tied]
    ends = _first_and_last(names, record)
    match_names(options.bits_for, names)
    for patterns in (options.layers, options.skip):
        match_names(patterns, [*names, *products])
    chosen = chosen_names(names, options)
    skipped: set[str] = set()
    if options.first_last == "keep":
        skipped |= ends
    plans = [_plan(root, name, name in ends, options) for name in chosen if name not in skipped]
    if not plans:
        raise InputError(
            "no layer is left to quantize; check layers, skip and first_last, or whether the model is quantized already"
        )
    return plans, notes


def chosen_names(names: Iterable[str], options: QuantizeOptions) -> list[str]:
    """The names that `layers` lets in and `skip` does not leave out."""

    def matches(name: str, patterns: list[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    wanted = [name for name in names if not options.layers or matches(name, options.layers)]
    return [name for name in wanted if not matches(name, options.skip)]


def _first_and_last(names: Iterable[str], record: Trace) -> set[str]:
    names = set(names)
    executed = [name for name in record.calls if name in names]
    return {executed[0], executed[-1]} if executed else set()


def _plan(root: nn.Module, name: str, is_end: bool, options: QuantizeOptions) -> LayerPlan:
    pattern = next((pattern for pattern in options.bits_for if fnmatchcase(name, pattern)), None)
    bits = options.bits_for[pattern] if pattern else options.weight_bits()
    raised = is_end and options.first_last == "int8" and pattern is None
    bits = max(bits, 8) if raised else bits
    return LayerPlan(name, _spec(root.get_submodule(name), bits, options), fixed=pattern is not None or raised)


def with_bits(plan: LayerPlan, bits: int, options: QuantizeOptions) -> LayerPlan:
    """The plan with another number of bits."""
    return replace(plan, spec=replace(plan.spec, **_widths(bits, options)))


def _widths(bits: int, options: QuantizeOptions) -> dict[str, Any]:
    """The fields of a spec that depend on the number of bits."""
    scheme = options.scheme_row()
    packed = scheme.format != "float8" and bits < 8 and options.coding == "packed"
    if bits == 8 and scheme.format == "int" and options.uses_half_range():
        bits = 7  # still a byte each
    # scales weigh little against 8-bit weights, and much against fewer bits
    return {"bits": bits, "packed": packed, "scale_type": "float16" if bits < 7 else "float32"}


def _spec(layer: nn.Module, bits: int, options: QuantizeOptions) -> Spec:
    scheme = options.scheme_row()
    granularity = options.weight_granularity() if scheme.format != "codebook" else "tensor"
    symmetric = options.weight_range == "symmetric"
    parameters = quantizable_parameters(layer)
    looks_up = isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    calls_forward = not isinstance(layer, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention) and not looks_up
    return Spec(
        parameters=parameters,
        weight_dtype=str(layer._parameters[parameters[0]].dtype).removeprefix("torch."),
        format=scheme.format,
        granularity=granularity,
        group_size=options.group_size if granularity == "group" else None,
        symmetric=symmetric or scheme.format != "int",
        axis=output_axis(layer),
        **_widths(bits, options),
        zero_index=scheme.format == "codebook" and _has_zeros(layer, parameters),
        input=scheme.activations if calls_forward else "none",
        input_symmetric=options.activation_range == "symmetric",
    )


def _has_zeros(layer: nn.Module, parameters: tuple[str, ...]) -> bool:
    """Whether weights were pruned: zeros that must stay zeros."""
    return any(bool((layer._parameters[name] == 0).any()) for name in parameters)
