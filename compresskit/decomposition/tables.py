"""Registries of decomposition's named choices: kinds, objectives, rank rules. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from .fit.fit import Evidence, Fit
    from .methods.geometry import Geometry
    from .methods.kinds import Kind, Ranks
    from .options import DecomposeOptions
    from .ranks.candidates import Layer
    from .ranks.rank_selection import Choices, Totals

_PACKAGE = "compresskit.decomposition"

KINDS: Registry[Kind] = Registry("kind", _PACKAGE, {
    "svd": Row("methods.svd:SVD", "linear, 1x1 convolution, embedding: two layers through a rank"),
    "channel-svd": Row("methods.svd:CHANNEL_SVD", "convolution: k x k to a rank, then 1x1", "Zhang et al., 2016"),
    "input-svd": Row("methods.svd:INPUT_SVD", "convolution: 1x1 to a rank, then k x k"),
    "spatial-svd": Row("methods.svd:SPATIAL_SVD", "convolution: k x 1, then 1 x k", "Jaderberg et al., 2014"),
    "tucker2": Row("methods.tucker_cp:TUCKER2", "convolution: 1x1, k x k on few channels, 1x1", "Kim et al., 2016"),
    "cp": Row(
        "methods.tucker_cp:CP", "convolution: 1x1, depthwise k x k, 1x1", "Lebedev et al., 2015; Phan et al., 2020",
    ),
    "tensor-train": Row(
        "methods.tensor_train:TENSOR_TRAIN",
        "convolution: 1x1, k x 1, 1 x k, 1x1; linear: two or three small ones on reshaped input",
        "Oseledets, 2011; Novikov et al., 2015",
    ),
}, group="decompositions", has=("fits", "limits", "chain", "factorize", "unfold", "output_side"),
doc="""How a layer becomes a chain of smaller ones.

A row is a methods.kinds.Kind. Its functions see one group of a layer: `fits(geometry)`, the largest ranks
`limits(geometry)`, the layers `chain(geometry, ranks)`, and their weights `factorize(weight, ranks)` from a weight
(out, in, *kernel).""",
)  # fmt: skip

KIND_CHOICES: Registry[Kind] = Registry("kind", _PACKAGE, {
    "auto": Row("ranks.candidates:all_kinds", "for each layer, the kind with the best error at its cost"),
}, extends=KINDS)  # fmt: skip

RANK_RULES: Registry[Callable[[list[Layer], DecomposeOptions, Totals], Choices]] = Registry("rank rule", _PACKAGE, {
    "energy": Row("ranks.rank_selection:by_energy", "cheapest rank that keeps a share of the layer's energy"),
    "keep-ratio": Row("ranks.rank_selection:by_ratio", "the same share of MACs in every layer"),
    "fixed": Row("ranks.rank_selection:by_fixed_rank", "the same rank in every layer"),
    "given": Row(
        "ranks.rank_selection:by_given_ranks", "the rank that is given for each layer; layers without one stay",
    ),
    "evbmf": Row(
        "ranks.rank_selection:by_evbmf", "ranks above the noise of the weights, no setting", "Nakajima et al., 2013",
    ),
    "error": Row("ranks.rank_selection:by_error", "cheapest rank within a relative error"),
    "budget": Row("ranks.rank_selection:by_budget", "all layers at once under one budget, solved exactly"),
}, group="rank_rules", returns="row_checks:choices", takes=("layers", "options", "totals"), doc="""How ranks are chosen.

A row is a function (layers, options, totals) -> choices: one candidate of each layer's `candidates` (with rank, error,
loss, macs, params), or None where the layer stays; `totals` has the whole model's MACs, parameters and latency.""",
)  # fmt: skip

OBJECTIVES: Registry[Callable[[Kind, Geometry, Ranks, Evidence], Fit]] = Registry("objective", _PACKAGE, {
    "weight": Row("fit.fit:fit_weight", "the weights alone; needs no data"),
    "activation": Row(
        "fit.fit:fit_activation", "the layer's outputs on calibration data", "Wang et al., 2024 (SVD-LLM)",
    ),
    "kfac": Row(
        "fit.kfac:fit_kfac",
        "the layer's outputs, weighted by how much the model's prediction depends on each direction of them",
        "Martens & Grosse, 2015",
    ),
    "nonlinear": Row("fit.fit:fit_nonlinear", "the outputs behind the activation that follows", "Zhang et al., 2016"),
}, group="objectives", returns="row_checks:fit",
   takes=("kind", "layer", "ranks", "evidence"), doc="""What a layer's factors are fitted to.

A row is a function (kind, layer, ranks, evidence) -> fit.fit.Fit: the weights of the chain's layers as they hold them,
the bias (out,) or None, and the relative error; `evidence` has the weight and, unless the objective is weight, the
inputs' moments.""",
)  # fmt: skip
