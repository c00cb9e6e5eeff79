"""Tables of pruning's named choices."""

from __future__ import annotations

from ..core.table import Row, Table

#: how units are ranked; a row's function takes a group and the evidence, and returns one score a unit
CRITERIA = Table("criterion", "compresskit.pruning", {
    "random": Row("criteria:random", "uniform random scores, the baseline of every comparison"),
    "l1": Row("criteria:l1", "sum of absolute weights", "Li et al., Pruning Filters for Efficient ConvNets, 2017"),
    "l2": Row("criteria:l2", "Euclidean norm of the weights"),
    "reconstruction": Row(
        "criteria:reconstruction", "error left in the reading layers after refitting them", "He et al., Channel Pruning, 2017"
    ),
})  # fmt: skip

#: how units of different groups compete
SCOPES = Table("scope", "compresskit.pruning", {
    "local": Row("pools:local", "every group loses the same share"),
    "global": Row("pools:everything", "all units compete"),
    "block": Row("pools:by_block", "units of one block compete, every block loses the same share"),
    "isomorphic": Row("pools:isomorphic", "units of layers with the same structure compete", "Fang et al., Isomorphic Pruning, 2024"),
})  # fmt: skip
