"""Which layers are quantized, and how each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.dtypes import FLOATS
from compresskit.core.tensors.modules import get_module, match_names
from compresskit.model.libraries.experts import is_experts, projections

from ..analysis.dataflow import Trace, shared_parameters
from .formats.saturation import is_depthwise, pair_distance
from .layers.layer_spec import Spec
from .layers.quantized_layer import Quantized, name_format, output_axis
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
    elif is_experts(layer):
        names = list(projections(layer))
    else:
        return ()
    return tuple(name for name in names if _quantizable(layer._parameters.get(name)))


def _quantizable(weight: Tensor | None) -> bool:
    """Whether a weight holds floats; complex ones and what is stored in 8 bits already have no grid here."""
    return weight is not None and weight.dtype in FLOATS and weight.numel() > 0


def candidates(root: nn.Module) -> tuple[list[str], list[str]]:
    """Layers whose weights can be quantized, and those left out because another layer shares their weights."""
    shared = shared_parameters(root)
    names: list[str] = []
    tied: list[str] = []
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
    decoders = _decoders(root, names, record)
    ends = _first_and_last([name for name in names if name not in decoders], record)
    match_names(options.bits_for, names)
    match_names(options.format_for, names)
    match_names(options.layers, [*names, *products])
    match_names(options.skip, [*names, *tied, *products])
    chosen = chosen_names(names, options)
    skipped = {name for name in chosen if name in decoders and not options.layers}
    notes += [f"{name} stays in float: its weights are constants that decode answers" for name in sorted(skipped)]
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


def _decoders(root: nn.Module, names: Iterable[str], record: Trace) -> set[str]:
    """Layers that run after all that learn, and learn nothing: YOLO's expectation over the places of an edge is one.

    A step of its 16 whole numbers moves a box by a fraction of a pixel, and it has next to no work to save.
    """
    names = set(names)
    executed = [name for name in record.calls if name in names]
    learns = [any(one.requires_grad for one in get_module(root, name).parameters()) for name in executed]
    last = max((place for place, found in enumerate(learns) if found), default=len(executed))
    return set(executed[last + 1 :])


def _first_and_last(names: Iterable[str], record: Trace) -> set[str]:
    names = set(names)
    executed = [name for name in record.calls if name in names]
    return {executed[0], executed[-1]} if executed else set()


def _plan(root: nn.Module, name: str, is_end: bool, options: QuantizeOptions) -> LayerPlan:
    bits_pattern, format_pattern = (
        next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
        for patterns in (options.bits_for, options.format_for)
    )
    number_format, bits = options.scheme_row().format, options.weight_bits()
    if format_pattern is not None:
        number_format = options.format_for[format_pattern]
        bits = name_format(number_format).bits
    if bits_pattern is not None:
        bits = options.bits_for[bits_pattern]
    fixed = bits_pattern is not None or format_pattern is not None
    if is_end and options.first_last == "int8" and not fixed:
        fixed, bits = True, max(bits, 8)
        if bits > name_format(number_format).bits_range[1]:
            number_format = "int"
    fewest, most = name_format(number_format).bits_range
    if not fewest <= bits <= most:
        has = f"{fewest} to {most}" if fewest < most else most
        raise InputError(
            f"{name}: format {number_format!r} has {has} bits, and bits_for says {bits}; change bits_for or format_for"
        )
    spec = _spec(root.get_submodule(name), number_format, bits, options)
    # first and last layer read activations of 8 bits, as in Li et al., "BRECQ", ICLR 2021, section 4
    input_bits = 8 if is_end and options.first_last == "int8" else options.input_bits()
    return LayerPlan(name, replace(spec, input_bits=input_bits), fixed=fixed)


def with_bits(plan: LayerPlan, bits: int, options: QuantizeOptions) -> LayerPlan:
    """The plan with another number of bits."""
    return replace(plan, spec=replace(plan.spec, **name_format(plan.spec.format).geometry(bits, options)))


def with_format(plan: LayerPlan, name: str, options: QuantizeOptions) -> LayerPlan:
    """The plan with another number format, in its own bits."""
    number_format = name_format(name)
    return replace(plan, spec=replace(plan.spec, format=name, **number_format.geometry(number_format.bits, options)))


def _reads_channels_last(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _spec(layer: nn.Module, number_format: str, bits: int, options: QuantizeOptions) -> Spec:
    activations = options.scheme_row().activations
    parameters = quantizable_parameters(layer)
    looks_up = isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    several = isinstance(layer, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention) or is_experts(layer)
    calls_forward = not several and not looks_up
    return Spec(
        parameters=parameters,
        weight_dtype=str(layer.get_parameter(parameters[0]).dtype).removeprefix("torch."),
        format=number_format,
        axis=output_axis(layer),
        **name_format(number_format).geometry(bits, _with_code_range(layer, options)),
        input=activations if calls_forward else "none",
        input_symmetric=options.activation_range == "symmetric",
        input_ranges=_input_ranges(layer, options),
    )


def _input_ranges(layer: nn.Module, options: QuantizeOptions) -> str:
    """What shares a range of a dynamic input; convolutions have no tokens."""
    if options.dynamic_ranges == "channel":
        return "channel"
    return "token" if options.dynamic_ranges == "token" and _reads_channels_last(layer) else "tensor"


def _with_code_range(layer: nn.Module, options: QuantizeOptions) -> QuantizeOptions:
    """Options whose automatic range of codes is the full one where a layer's kernels do not saturate with it."""
    if options.code_range != "auto" or not (is_depthwise(layer) or options.spreads_pairs() and pair_distance(layer)):
        return options
    return options.model_copy(update={"code_range": "full"})
