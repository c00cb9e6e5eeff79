"""The named choices of decomposition: kinds, objectives, rank rules. Imports nothing heavy."""

from __future__ import annotations

from ..core.registry import Row, Table

_PACKAGE = "compresskit.decomposition"

#: a row is a `kinds.Kind`: what it fits, the chain of layers at a rank, and the factors of a weight
KINDS = Table("kind", _PACKAGE, {
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
})  # fmt: skip

#: the choices of the `kind` option
KIND_CHOICES = Table("kind", _PACKAGE, {
    "auto": Row("ranks.candidates:all_kinds", "for each layer, the kind with the best error at its cost"),
    **KINDS,
})  # fmt: skip

#: a row is a function that picks one candidate for each layer, or none: (layers, options) -> choices
RANK_RULES = Table("rank rule", _PACKAGE, {
    "energy": Row("ranks.rank_selection:by_energy", "cheapest rank that keeps a share of the layer's energy"),
    "ratio": Row("ranks.rank_selection:by_ratio", "the same share of MACs in every layer"),
    "fixed": Row("ranks.rank_selection:by_fixed_rank", "the same rank in every layer"),
    "given": Row(
        "ranks.rank_selection:by_given_ranks", "the rank that is given for each layer; layers without one stay",
    ),
    "evbmf": Row(
        "ranks.rank_selection:by_evbmf", "ranks above the noise of the weights, no setting", "Nakajima et al., 2013",
    ),
    "error": Row("ranks.rank_selection:by_error", "cheapest rank within a relative error"),
    "budget": Row("ranks.rank_selection:by_budget", "all layers at once under one budget, solved exactly"),
})  # fmt: skip

#: what a layer's factors are fitted to
OBJECTIVES = Table("objective", _PACKAGE, {
    "weight": Row("fit.fit:fit_weight", "the weights alone; needs no data"),
    "activation": Row(
        "fit.fit:fit_activation", "the layer's outputs on calibration data", "Wang et al., 2024 (SVD-LLM)",
    ),
    "nonlinear": Row("fit.fit:fit_nonlinear", "the outputs behind the activation that follows", "Zhang et al., 2016"),
})  # fmt: skip
