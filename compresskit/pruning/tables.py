"""Tables of pruning's named choices."""

from __future__ import annotations

from ..core.registry import Row, Table

#: how units are ranked; a row's function takes a group and the evidence, and returns one score a unit
CRITERIA = Table("criterion", "compresskit.pruning", {
    "random": Row("importance.importance:random", "uniform random scores, the baseline of every comparison"),
    "l1": Row("importance.importance:l1", "sum of absolute weights", "Li et al., 2017"),
    "l2": Row("importance.importance:l2", "Euclidean norm of the weights"),
    "lamp": Row("importance.importance:lamp", "squared norm over those not smaller in its layer", "Lee et al., 2021"),
    "bn-scale": Row("importance.importance:bn_scale", "scale of the norm layer behind a channel", "Liu et al., 2017"),
    "fpgm": Row("importance.importance:fpgm", "distance to all other filters (geometric median)", "He et al., 2019"),
    "taylor": Row(
        "importance.importance:taylor", "first-order change of the loss, by weights",
        "Molchanov et al., 2019", needs="labels"
    ),
    "activation-taylor": Row(
        "importance.importance:activation_taylor", "first-order change of the loss, by activations",
        "Molchanov et al., 2017", needs="labels"
    ),
    "fisher": Row(
        "importance.importance:fisher", "second-order change of the loss (empirical Fisher)",
        "Theis et al., 2018", needs="labels"
    ),
    "activation": Row("importance.importance:activation", "mean absolute activation", needs="data"),
    "apoz": Row(
        "importance.importance:apoz", "share of activations that are not zero", "Hu et al., 2016", needs="data",
    ),
    "variance": Row("importance.importance:variance", "variance of the activation", needs="data"),
    "wanda": Row(
        "importance.importance:wanda", "|weight| times the activation's norm", "Sun et al., 2024", needs="data",
    ),
    "reconstruction": Row(
        "importance.importance:reconstruction", "error left in the reading layers after refitting them",
        "He et al., 2017", needs="data"
    ),
    "reconstruction-loss": Row(
        "importance.importance:reconstruction_loss", "the same, weighted by how much the loss minds each output",
        needs="labels"
    ),
})  # fmt: skip

#: how single weights are ranked; a row's function takes a weight and its layer's evidence, and returns a score a weight
SALIENCIES = Table("saliency", "compresskit.pruning", {
    "magnitude": Row("importance.weight_importance:magnitude", "absolute weight"),
    "random": Row("importance.weight_importance:random", "uniform random scores"),
    "gradient": Row(
        "importance.weight_importance:gradient",
        "|weight times its gradient|", "Molchanov et al., 2019", needs="labels",
    ),
    "wanda": Row(
        "importance.weight_importance:wanda", "|weight| times the norm of its input", "Sun et al., 2024", needs="data",
    ),
    "sparsegpt": Row(
        "importance.weight_importance:sparsegpt", "least squared output error, the other weights updated",
        "Frantar & Alistarh, 2023", needs="data"
    ),
})  # fmt: skip

#: how many weights each layer keeps
ALLOCATIONS = Table("allocation", "compresskit.pruning", {
    "uniform": Row("allocation.layer_sparsity:uniform", "every layer loses the same share"),
    "global": Row("allocation.layer_sparsity:everything", "all weights compete by their scores"),
    "lamp": Row(
        "allocation.layer_sparsity:lamp", "all weights compete by layer-adaptive magnitude", "Lee et al., 2021",
    ),
    "erk": Row(
        "allocation.layer_sparsity:erk",
        "layers with more inputs and outputs a weight stay denser", "Evci et al., 2020",
    ),
})  # fmt: skip

#: how units of different groups compete
SCOPES = Table("scope", "compresskit.pruning", {
    "local": Row("allocation.ranking_scope:local", "every group loses the same share"),
    "global": Row("allocation.ranking_scope:everything", "all units compete"),
    "block": Row("allocation.ranking_scope:by_block", "units of one block compete, every block loses the same share"),
    "isomorphic": Row(
        "allocation.ranking_scope:isomorphic",
        "units of layers with the same structure compete",
        "Fang et al., Isomorphic Pruning, 2024"
    ),
})  # fmt: skip

#: penalties of a training before the cut; a row's function takes a group's units and the progress, returns a scalar
REGULARIZERS = Table("sparsify", "compresskit.pruning", {
    "none": Row("recovery.regularized_training:sparsify", "no training before the cut"),
    "group-lasso": Row(
        "recovery.regularized_training:group_lasso",
        "norms of whole units over the layers that share them",
        "Wen et al., 2016"
    ),
    "slimming": Row("recovery.regularized_training:slimming", "L1 norm of the norm layers' scales", "Liu et al., 2017"),
    "growing": Row(
        "recovery.regularized_training:growing",
        "squared norm of the units that will go, ever stronger", "Wang et al., 2021",
    ),
})  # fmt: skip
