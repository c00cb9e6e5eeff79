"""Registries of pruning's named choices. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from torch import Tensor

    from .dependency.graph import Group
    from .dependency.tracer import Trace
    from .importance.block_importance import BlockEvidence
    from .importance.calibration_statistics import Evidence
    from .importance.expert_importance import RoutedOutputs
    from .importance.weight_importance import WeightEvidence
    from .recovery.regularized_training import Units

_PACKAGE = "compresskit.pruning"

CRITERIA: Registry[Callable[[Group, Evidence], Tensor]] = Registry("criterion", _PACKAGE, {
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
}, group="criteria", returns="row_checks:scores_of_units", takes=("group", "evidence"), doc="""How channels are ranked.

A row is a function (group, evidence) -> scores: `group` holds the units that go or stay together and `group.members`
the tensors that they are cut from; `evidence` (importance.calibration_statistics.Evidence) gives weights by
`evidence.tensor(member)`, and activations, gradients and second moments once they are asked for. Scores are
(units,), float64; the smallest go first. `importance.combine` sums a score of every weight over each unit.""",
)  # fmt: skip

SALIENCIES: Registry[Callable[[Tensor, WeightEvidence], Tensor]] = Registry("saliency", _PACKAGE, {
    "magnitude": Row("importance.weight_importance:magnitude", "absolute weight"),
    "random": Row("importance.weight_importance:random", "uniform random scores"),
    "gradient": Row(
        "importance.weight_importance:gradient",
        "|weight times its gradient|", "Molchanov et al., 2019", needs="labels",
    ),
    "wanda": Row(
        "importance.weight_importance:wanda", "|weight| times the norm of its input", "Sun et al., 2024", needs="data",
        attributes={"compares": "row"},
    ),
    "sparsegpt": Row(
        "importance.weight_importance:sparsegpt", "least squared output error, the other weights updated",
        "Frantar & Alistarh, 2023", needs="data"
    ),
}, group="saliencies", returns="row_checks:scores_of_weights",
   takes=("weight", "evidence"), doc="""How single weights are ranked.

A row is a function (weight, evidence) -> scores: `weight` is a layer's, (out, in, *kernel); `evidence`
(importance.weight_importance.WeightEvidence) holds the inputs' second moments where the row needs "data" and the
weight's mean gradient where it needs "labels". Scores have the weight's shape; the smallest go first. With the
attribute `compares = "row"` the weights of each row of a linear layer compete, in the place of all of the layer's.""",
)  # fmt: skip

BLOCK_IMPORTANCES: Registry[Callable[[Mapping[str, Any], BlockEvidence], dict[str, Any]]] = Registry(
    "block importance", _PACKAGE, {
    "output": Row("importance.block_importance:output_change", "change of the outputs without the block"),
    "influence": Row(
        "importance.block_importance:influence", "one minus the cosine of what enters and leaves it", "Men et al., 2024"
    ),
    "loss": Row(
        "importance.block_importance:loss_change", "loss of the task without the block", "Muralidharan et al., 2024",
        needs="labels",
    ),
}, group="block_importances", returns="row_checks:scores_of_blocks",
   takes=("blocks", "evidence"), doc="""How whole blocks are ranked; the smallest go first.

A row is a function (blocks, evidence) -> {name: number}: `blocks` maps names to the edits that leave them out,
`evidence` (importance.block_importance.BlockEvidence) holds the model and batches, and `evidence.without(edit, judge)`
is what a judge says while a block is left out. In the place of a number stands the reason why a block must stay.""",
)  # fmt: skip

EXPERT_IMPORTANCES: Registry[Callable[[RoutedOutputs], Tensor]] = Registry(
    "expert importance", _PACKAGE, {
    "output": Row(
        "importance.expert_importance:contribution",
        "norm of what the router takes from it, averaged over all tokens: how often times how much",
    ),
    "reap": Row(
        "importance.expert_importance:router_weighted", "the same averaged over its own tokens", "Lasby et al., 2025"
    ),
    "frequency": Row("importance.expert_importance:frequency", "share of the tokens that are routed to it"),
}, group="expert_importances", returns="row_checks:scores_of_experts",
   takes=("routed",), doc="""How whole experts of a mixture are ranked; the smallest go first.

A row is a function (routed) -> scores, (experts,): `routed` (importance.expert_importance.RoutedOutputs) holds how many
tokens were routed to each expert of a layer, and the norms of what it gave for them times the router's weights.""",
)  # fmt: skip

ALLOCATIONS: Registry[Callable[..., dict[str, float]]] = Registry(
    "allocation", _PACKAGE, {
    "auto": Row("allocation.solved_sparsity:solve", "solve where there are data, else global"),
    "solve": Row(
        "allocation.solved_sparsity:solve",
        "least sum of what each layer's zeros do to the output, solved exactly",
        "Frantar & Alistarh, SPDY, 2022, for the problem", needs="data", attributes={"reads": "errors"},
    ),
    "uniform": Row(
        "allocation.layer_sparsity:uniform", "every layer loses the same share", attributes={"reads": "weights"}
    ),
    "global": Row("allocation.layer_sparsity:everything", "all weights compete by their scores"),
    "lamp": Row(
        "allocation.layer_sparsity:lamp", "all weights compete by layer-adaptive magnitude", "Lee et al., 2021",
        attributes={"reads": "weights"},
    ),
    "erk": Row(
        "allocation.layer_sparsity:erk",
        "layers with more inputs and outputs a weight stay denser", "Evci et al., 2020",
        attributes={"reads": "weights"},
    ),
}, group="allocations", returns="row_checks:kept_shares",
   takes=("scores", "weights", "keep"), doc="""How many weights each layer keeps.

A row is a function (scores, weights, keep) -> {layer: share kept}: `scores` and `weights` map each layer's name to
tensors of its weight's shape; `keep` is the share of all weights that stays.""",
)  # fmt: skip

SCOPES: Registry[Callable[[list[Group]], list[list[int]]]] = Registry("scope", _PACKAGE, {
    "auto": Row(
        "allocation.ranking_scope:local",
        "for a budget where there are data solve, local or what lies halfway between them, whichever errs least once "
        "it is refitted; else local",
    ),
    "solve": Row(
        "allocation.ranking_scope:local",
        "every group, or kind of layers with one width, by itself: as much of it as predicts the least change of the "
        "output under the budget",
        needs="data",
    ),
    "local": Row("allocation.ranking_scope:local", "every group loses the same share"),
    "global": Row("allocation.ranking_scope:everything", "all units compete"),
    "block": Row("allocation.ranking_scope:by_block", "units of one block compete, every block loses the same share"),
    "isomorphic": Row(
        "allocation.ranking_scope:isomorphic",
        "units of layers with the same structure compete",
        "Fang et al., Isomorphic Pruning, 2024"
    ),
}, group="scopes", returns="row_checks:pools", takes=("groups",), doc="""Which channels compete with each other.

A row is a function (groups) -> pools: lists of positions in `groups`, each position in one pool. Units of a pool are
ranked together, and every pool loses the same share.""",
)  # fmt: skip

REGULARIZERS: Registry[Callable[[Units, float], Tensor]] = Registry("sparsify", _PACKAGE, {
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
}, group="regularizers", returns="row_checks:penalty",
   takes=("units", "progress"), doc="""Penalties of a training before the cut.

A row is a function (units, progress) -> scalar, differentiable: `units`
(recovery.regularized_training.Units) holds the squared norm of each unit of a group, (units,), and which would go;
`progress` runs from 0 to 1. The penalty is added to the task loss.""",
)  # fmt: skip

OP_RULES: Registry[Callable[[Trace, Any, tuple, dict], Any]] = Registry(
    "operation", _PACKAGE, {}, group="op_rules", takes=("trace", "func", "args", "kwargs"),
    doc="""How channels go through operations that PyTorch does not bring; those of PyTorch are in op_rules/table.py.

A row is called like its operation, "mylib::op", and is best registered beside it, in the model's own file:
OP_RULES.register("mylib::op", rule). It is a function (trace, func, args, kwargs) -> the operation's output: it calls
`func(*args, **kwargs)`, reads the id planes of inputs by `trace.planes(tensor)` and sets those of the output by
`trace.set(tensor, planes)`. `op_rules.table.pointwise` is the rule of every element-wise operation.""",
)  # fmt: skip
