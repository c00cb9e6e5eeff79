"""The named choices of quantization: number formats, schemes, observers, rounding methods. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from compresskit.core.registry import Registry, Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .calibration.observers import Observer
    from .formats.number_format import NumberFormat
    from .rounding.nearest import Problem

_PACKAGE = "compresskit.quantization"


class Scheme(NamedTuple):
    """What a scheme's name stands for; options fill in the rest."""

    format: str  # how weights are held: a row of FORMATS
    bits: int  # bits a weight
    activations: str  # "none", "static" (calibrated) or "dynamic" (ranges taken from each batch)
    granularity: str  # which weights share a scale: "tensor", "channel" or "group"
    activation_bits: int = 8


#: rows of SCHEMES point here
INT8_WEIGHT = Scheme("int", 8, "none", "channel")
INT8_STATIC = Scheme("int", 8, "static", "channel")
INT8_DYNAMIC = Scheme("int", 8, "dynamic", "channel")
INT4_WEIGHT = Scheme("int", 4, "none", "channel")
INT3_WEIGHT = Scheme("int", 3, "none", "channel")
INT2_WEIGHT = Scheme("int", 2, "none", "channel")
W4A8 = Scheme("int", 4, "static", "channel")
W4A4 = Scheme("int", 4, "static", "channel", 4)
W2A4 = Scheme("int", 2, "static", "channel", 4)
FLOAT8_WEIGHT = Scheme("float8", 8, "none", "channel")

#: number formats that are schemes of weights by their own names; a row is a NumberFormat, see formats/number_format.py
WEIGHT_FORMATS: Registry[NumberFormat] = Registry(
    "number format",
    _PACKAGE,
    {
        "float8-e5m2": Row(
            "formats.float8:E5M2",
            "weights in float8 e5m2 with one scale a channel: a wider range, a shorter mantissa",
            "Micikevicius et al., 2022",
        ),
        "codebook": Row(
            "formats.codebook:CODEBOOK", "weights share the values of a k-means codebook a layer", "Han et al., 2016"
        ),
        "nf4": Row(
            "formats.fixed_groups.nf4:NF4",
            "weights in 4 bits, levels at quantiles of a normal distribution, one scale for each 64 weights",
            "Dettmers et al., 2023",
        ),
        "nf4-double": Row(
            "formats.fixed_groups.nf4:NF4_DOUBLE",
            "nf4 whose scales are stored in 8 bits themselves",
            "Dettmers et al., 2023",
        ),
        "mxfp4": Row(
            "formats.fixed_groups.mxfp4:MXFP4",
            "weights in 4-bit floats (e2m1), one power of two for each 32 of a row",
            "OCP Microscaling Formats v1.0, 2023",
        ),
        "nvfp4": Row(
            "formats.fixed_groups.nvfp4:NVFP4",
            "weights in 4-bit floats (e2m1), one float8 for each 16 of a row and one float32 for all",
            "NVIDIA, 2024",
        ),
        "q2-k": Row(
            "formats.fixed_groups.k_quants:Q2_K",
            "weights as Q2_K of GGUF files, 2.6 bits each: 2-bit codes, 16 of a row a scale and an offset of 4 bits",
            "Kawrakow, 2023",
        ),
        "q3-k": Row(
            "formats.fixed_groups.k_quants:Q3_K",
            "weights as Q3_K of GGUF files, 3.4 bits each: 3-bit codes, 16 of a row a scale of 6 bits",
            "Kawrakow, 2023",
        ),
        "q4-k": Row(
            "formats.fixed_groups.k_quants:Q4_K",
            "weights as Q4_K of GGUF files, 4.5 bits each: 4-bit codes, 32 of a row a scale and an offset of 6 bits",
            "Kawrakow, 2023",
        ),
        "q5-k": Row(
            "formats.fixed_groups.k_quants:Q5_K",
            "weights as Q5_K of GGUF files, 5.5 bits each: 5-bit codes, 32 of a row a scale and an offset of 6 bits",
            "Kawrakow, 2023",
        ),
        "q6-k": Row(
            "formats.fixed_groups.k_quants:Q6_K",
            "weights as Q6_K of GGUF files, 6.6 bits each: 6-bit codes, 16 of a row a scale of 8 bits",
            "Kawrakow, 2023",
        ),
    },
    group="formats",
    has=("bits", "granularity", "options", "geometry", "stored", "quantize", "dequantize", "pack", "unpack", "module"),
    doc="""How weights are held in few bits. A row is a NumberFormat; BaseFormat does most of it.""",
)

#: every number format; schemes name these two with bits and activations
FORMATS: Registry[NumberFormat] = Registry(
    "number format",
    _PACKAGE,
    {
        "int": Row(
            "formats.integer:INTEGER",
            "uniform integer levels",
            attributes={
                "bits_range": (2, 8),
                "options": frozenset(
                    {
                        "bits",
                        "bits_for",
                        "granularity",
                        "group_size",
                        "weight_range",
                        "weight_search",
                        "coding",
                        "code_range",
                        "rounding",
                        "awq",
                        "qat",
                        "target_bits",
                    }
                ),
            },
        ),
        "float8": Row(
            "formats.float8:E4M3",
            "floats of 8 bits, three of them mantissa (e4m3)",
            "Micikevicius et al., 2022",
            attributes={"bits_range": (8, 8), "options": frozenset({"granularity", "group_size"})},
        ),
    },
    extends=WEIGHT_FORMATS,
    doc="""How weights are held in few bits. A row is a NumberFormat; those of named schemes say `options` and
`bits_range` here, so that a recipe is checked without importing torch.""",
)

SCHEMES: Registry[Scheme | NumberFormat] = Registry(
    "scheme",
    _PACKAGE,
    {
        "int8-weight": Row("tables:INT8_WEIGHT", "weights in 8 bits, one scale a channel"),
        "int8-static": Row(
            "tables:INT8_STATIC", "weights and activations in 8 bits, ranges calibrated on data", "Jacob et al., 2018"
        ),
        "int8-dynamic": Row("tables:INT8_DYNAMIC", "weights and activations in 8 bits, ranges taken from each batch"),
        "w4a8": Row("tables:W4A8", "weights in 4 bits, activations in 8, ranges calibrated on data"),
        "w4a4": Row(
            "tables:W4A4", "weights and activations in 4 bits, ranges calibrated on data; simulated", "Li et al., 2021"
        ),
        "w2a4": Row(
            "tables:W2A4",
            "weights in 2 bits, activations in 4, ranges calibrated on data; simulated",
            "Li et al., 2021",
        ),
        "int4-weight": Row("tables:INT4_WEIGHT", "weights in 4 bits, packed"),
        "int3-weight": Row("tables:INT3_WEIGHT", "weights in 3 bits, packed"),
        "int2-weight": Row("tables:INT2_WEIGHT", "weights in 2 bits, packed"),
        "float8-weight": Row(
            "tables:FLOAT8_WEIGHT", "weights in float8 e4m3 with one scale a channel", "Micikevicius et al., 2022"
        ),
    },
    has=("bits", "granularity"),
    doc="""What is quantized, and to what. A row is a Scheme, or a number format, which is one of weights alone.""",
    extends=WEIGHT_FORMATS,
)

CODEBOOK_STARTS: Registry[Callable[[Tensor, int, torch.Generator], Tensor]] = Registry(
    "codebook start",
    _PACKAGE,
    {
        "linear": Row("formats.codebook:linear_start", "centroids at equal distances; keeps large weights best"),
        "density": Row("formats.codebook:density_start", "centroids at equal shares of the weights"),
        "random": Row("formats.codebook:random_start", "centroids at weights drawn by the seed"),
    },
    group="codebook_starts",
    returns="row_checks:centroids",
    takes=("ordered", "count", "generator"),
    doc="""Where k-means starts.

A row is a function (ordered, count, generator) -> centroids: (n,) ascending weights to (count,) ascending values.""",
)

OBSERVERS: Registry[Callable[..., Observer]] = Registry(
    "observer",
    _PACKAGE,
    {
        "minmax": Row("calibration.observers:MinMax", "the smallest and largest value seen"),
        "moving-average": Row(
            "calibration.observers:MovingAverage",
            "averages of each batch's smallest and largest value",
            "Jacob et al., 2018",
        ),
        "percentile": Row(
            "calibration.observers:Percentile",
            "all but the rarest values on each side",
            "Wu et al., 2020",
        ),
        "mse": Row(
            "calibration.observers:MeanSquaredError",
            "the range with the smallest squared rounding error",
            "Banner et al., 2019",
        ),
        "lsq": Row(
            "calibration.observers:MeanMagnitude",
            "steps of twice the mean magnitude over the root of the largest code, where training of steps starts",
            "Esser et al., 2020",
        ),
        "entropy": Row(
            "calibration.observers:Entropy",
            "the range with the smallest Kullback-Leibler divergence",
            "Migacz, 2017",
        ),
    },
    group="observers",
    returns="row_checks:observer",
    takes=("levels", "percentile"),
    doc="""How activation ranges are found.

A row is a class (or function) called with (levels, percentile) once a tensor: the bits and symmetry of its quantizer
(calibration.observers.Levels), and the share of values in percent that the options ask for. It makes an object with
`update(values)`, called with each batch's tensor, and `range() -> (low, high)`.""",
)

#: what `observer` may be: one row for all layers, or the best row for each
OBSERVER_CHOICES: Registry[Callable[..., Observer]] = Registry(
    "observer",
    _PACKAGE,
    {
        "auto": Row(
            "calibration.calibration:choose",
            "for each tensor the observer with the smallest layer output error",
        ),
    },
    extends=OBSERVERS,
)

ROUNDINGS: Registry[Callable[[Problem], Tensor]] = Registry(
    "rounding",
    _PACKAGE,
    {
        "nearest": Row("rounding.nearest:nearest", "to the nearest level"),
        "adaround": Row(
            "rounding.adaround:adaround",
            "up or down as suits the layer's output, learned on data",
            "Nagel et al., 2020",
            needs="data",
        ),
        "gptq": Row(
            "rounding.gptq:gptq",
            "column by column, later columns making up for earlier errors",
            "Frantar et al., 2023",
            needs="data",
        ),
        "squant": Row(
            "rounding.squant:squant",
            "to nearest, then a few the other way so that errors of each kernel and channel cancel; reads no data",
            "Guo et al., 2022",
        ),
    },
    group="roundings",
    returns="row_checks:codes",
    takes=("problem",),
    doc="""How weights are rounded.

A row is a function (problem) -> codes: `problem` (rounding.nearest.Problem) holds a layer's weights as a matrix
(rows, columns), the grid of its levels, and, where the row needs "data", the inputs' second moments. Codes are integers
of the matrix's shape.""",
)
