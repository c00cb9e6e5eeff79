"""Which options of `quantize` mean nothing together. Imports no torch."""

from __future__ import annotations

from typing import Any

from ..core.costs import field_of
from .tables import FORMATS, OBSERVERS

_CALIBRATED = (
    "observer", "percentile", "calibration_samples", "calibration_batch", "quantize_additions", "activation_range",
)  # fmt: skip

#: what number formats read or not, each by itself
_OF_FORMATS = ("bits", "bits_for", "granularity", "weight_range", "weight_search", "codebook_start", "group_size")


def format_fact(name: str, fact: str) -> Any:
    """What a number format says of itself: in its row, which imports no torch, else by its object."""
    said = FORMATS.attribute(name, fact, None)
    return getattr(FORMATS.load(name), fact) if said is None else said


def conflicts(options: Any) -> list[str]:
    """A line for each option that would be ignored, or contradicts another; each names the remedy.

    Args:
        options: a QuantizeOptions.
    """
    scheme, given = options.scheme_row(), options.model_fields_set
    problems = []
    if scheme.activations != "static":
        problems += [
            f"{name} would be ignored: scheme {options.scheme!r} calibrates no activations; choose int8-static"
            for name in _CALIBRATED
            if name in given
            and not (name in ("calibration_samples", "calibration_batch") and options.may_need_data())
            and not (name == "activation_range" and scheme.activations == "dynamic")
        ]
    if scheme.activations != "dynamic" and "dynamic_ranges" in given:
        problems.append(
            f"dynamic_ranges would be ignored: scheme {options.scheme!r} takes no ranges from batches; choose "
            "int8-dynamic"
        )
    if scheme.activations == "none" and "quantize_attention" in given:
        problems.append(
            f"quantize_attention would be ignored: scheme {options.scheme!r} leaves activations in float; "
            "choose int8-static or int8-dynamic"
        )
    if options.blocks and not (options.may_need_moments() or options.explain):
        problems.append("blocks would be ignored: no rounding, scaling or bias correction looks at layers' inputs")
    if "percentile" in given and OBSERVERS.builtin(options.observer) and options.observer != "percentile":
        problems.append(f"percentile would be ignored: observer is {options.observer!r}; choose percentile")
    read: frozenset[str] = format_fact(scheme.format, "options")
    grouped = options.weight_granularity() == "group" or "granularity" not in read
    if "group_size" in given and not grouped:
        problems.append("group_size would be ignored: set granularity to group")
    ignored = [name for name in _OF_FORMATS if name in given and name not in read]
    if ignored:
        problems.append(
            f"{', '.join(ignored)} would be ignored, with no meaning for scheme {options.scheme!r}; leave it out"
        )
    if options.qat != "none" and "qat" not in read:
        problems.append(f"qat learns integer steps; scheme {options.scheme!r} has none, use recover to tune it")
    if options.reconstruct == "block" and "qat" not in read:
        problems.append(f"reconstruct block learns integer steps; scheme {options.scheme!r} has none, leave it out")
    if "activation_bits" in given and scheme.activations == "none":
        problems.append(
            f"activation_bits would be ignored: scheme {options.scheme!r} leaves activations in float; choose "
            "int8-static, int8-dynamic or w4a4"
        )
    if "quantize_additions" in given and options.quantize_additions and options.input_bits() < 8:
        problems.append(
            "quantize_additions would be ignored: no runtime adds in fewer than 8 bits; leave it out, or take "
            "activations of 8 bits"
        )
    deciding = options.chosen_by()
    if options.chooses_bits() and ("target_bits" not in read or "bits" in given):
        problems.append(f"{deciding[0]} chooses among integer bits by itself; leave bits out and take an int scheme")
    timed = options.timed_target()
    if timed and (scheme.activations != "static" or options.weight_bits() != 8):
        problems.append(f"{field_of(timed)} chooses between int8 and float layers; choose scheme int8-static")
    if len(deciding) > 1:
        problems.append(f"{' and '.join(deciding)} each choose the layers' bits; choose one")
    problems += [
        f"{name} would be ignored: set target_bits"
        for name in ("candidate_bits", "candidate_formats")
        if name in given and not options.chooses_bits()
    ]
    if options.format_for and scheme.activations != "none":
        problems.append(f"format_for is for schemes of weights only; scheme {options.scheme!r} quantizes activations")
    if options.coding == "huffman" and "coding" not in read:
        problems.append(f"coding huffman works on integers; scheme {options.scheme!r} has none")
    if "code_range" in given and (options.weight_bits() != 8 or "code_range" not in read):
        problems.append("code_range would be ignored: it is about weights of 8 bits")
    smallest, largest = format_fact(scheme.format, "bits_range")
    candidates = options.candidate_bits if options.chooses_bits() else []
    wrong = [
        bits
        for bits in [*options.bits_for.values(), *candidates, options.weight_bits()]
        if not smallest <= bits <= largest
    ]
    if wrong:
        problems.append(f"bits must be {smallest} to {largest} for scheme {options.scheme!r}, got {wrong[0]}")
    if options.rounding != "nearest" and "rounding" not in read:
        problems.append(
            f"rounding {options.rounding!r} works on integer levels; scheme {options.scheme!r} has none, use nearest"
        )
    if options.smooth is not None and scheme.activations == "none":
        problems.append(f"smooth would be useless: scheme {options.scheme!r} leaves activations in float; try awq")
    if options.smooth is not None and options.awq:
        problems.append("smooth and awq both scale input channels; choose one")
    if options.awq and "awq" not in read:
        problems.append(f"awq works on integer levels; scheme {options.scheme!r} has none")
    return problems
