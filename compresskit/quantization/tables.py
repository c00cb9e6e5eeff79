"""The named choices of quantization: schemes, observers, rounding methods. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple

from compresskit.core.registry import Row, Table

_PACKAGE = "compresskit.quantization"


class Scheme(NamedTuple):
    """What a scheme's name stands for; options fill in the rest."""

    format: str  # how weights are held: "int", "float8" or "codebook"
    bits: int  # bits a weight
    activations: str  # "none", "static" (calibrated int8) or "dynamic" (int8, ranges taken from each batch)
    granularity: str  # which weights share a scale: "tensor", "channel" or "group"


#: rows of SCHEMES point here
INT8_WEIGHT = Scheme("int", 8, "none", "channel")
INT8_STATIC = Scheme("int", 8, "static", "channel")
INT8_DYNAMIC = Scheme("int", 8, "dynamic", "channel")
INT4_WEIGHT = Scheme("int", 4, "none", "channel")
INT3_WEIGHT = Scheme("int", 3, "none", "channel")
INT2_WEIGHT = Scheme("int", 2, "none", "channel")
FLOAT8_WEIGHT = Scheme("float8", 8, "none", "channel")
CODEBOOK = Scheme("codebook", 4, "none", "tensor")

SCHEMES = Table(
    "scheme",
    _PACKAGE,
    {
        "int8-weight": Row("tables:INT8_WEIGHT", "weights in 8 bits, one scale a channel"),
        "int8-static": Row(
            "tables:INT8_STATIC", "weights and activations in 8 bits, ranges calibrated on data", "Jacob et al., 2018"
        ),
        "int8-dynamic": Row("tables:INT8_DYNAMIC", "weights and activations in 8 bits, ranges taken from each batch"),
        "int4-weight": Row("tables:INT4_WEIGHT", "weights in 4 bits, packed"),
        "int3-weight": Row("tables:INT3_WEIGHT", "weights in 3 bits, packed"),
        "int2-weight": Row("tables:INT2_WEIGHT", "weights in 2 bits, packed"),
        "float8-weight": Row(
            "tables:FLOAT8_WEIGHT", "weights in float8 e4m3 with one scale a channel", "Micikevicius et al., 2022"
        ),
        "codebook": Row(
            "tables:CODEBOOK", "weights share the values of a k-means codebook a layer", "Han et al., 2016"
        ),
    },
)

CODEBOOK_STARTS = Table(
    "codebook start",
    _PACKAGE,
    {
        "linear": Row("formats.codebook:linear_start", "centroids at equal distances; keeps large weights best"),
        "density": Row("formats.codebook:density_start", "centroids at equal shares of the weights"),
        "random": Row("formats.codebook:random_start", "centroids at weights drawn by the seed"),
    },
)

OBSERVERS = Table(
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
        "entropy": Row(
            "calibration.observers:Entropy",
            "the range with the smallest Kullback-Leibler divergence",
            "Migacz, 2017",
        ),
    },
)

#: what `observer` may be: one row for all layers, or the best row for each
OBSERVER_CHOICES = Table(
    "observer",
    _PACKAGE,
    {
        **OBSERVERS,
        "auto": Row(
            "calibration.calibration:choose",
            "for each tensor the observer with the smallest layer output error",
        ),
    },
)

ROUNDINGS = Table(
    "rounding",
    _PACKAGE,
    {
        "nearest": Row("rounding.nearest:nearest", "to the nearest level"),
        "adaround": Row(
            "rounding.adaround:adaround",
            "up or down as suits the layer's output, learned on data",
            "Nagel et al., 2020",
        ),
        "gptq": Row(
            "rounding.gptq:gptq", "column by column, later columns making up for earlier errors", "Frantar et al., 2023"
        ),
    },
)
