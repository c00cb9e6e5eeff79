"""The package's own costs, one record each; their rows are in `costs.py`. Imports no torch."""

from __future__ import annotations

from .costs import COUNTS, SIZES, Cost

MULTIPLICATIONS = Cost(
    "MACs", "counted:macs", units=COUNTS, says="one forward takes {}", figure="macs",
    techniques=("prune", "decompose", "mixed", "architecture"), label="executed: counted while running",
)  # fmt: skip
PARAMETERS = Cost(
    "parameters", "counted:params", units=COUNTS, says="the model has {}", figure="parameters",
    techniques=("prune", "decompose", "mixed", "architecture"),
)  # fmt: skip
WEIGHT_BYTES = Cost(
    "bytes", "counted:tensor_bytes", "B", SIZES, measured_by="counted:stored_bytes", says="the weights take {}",
    figure="size_bytes", label="stored: size of the weights file",
)  # fmt: skip
LATENCY = Cost(
    "latency", unit="ms", units={"us": 1e-3, "ms": 1.0, "s": 1e3}, known="timed", says="one forward takes {}",
    figure="latency",
)  # fmt: skip
MEMORY = Cost(
    "peak memory", "memory:predicted_bytes", "B", SIZES, known="predicted", measured_by="memory:peak_bytes",
    says="activations take {} at their peak", figure="peak_memory_bytes", techniques=("prune",),
    label="executed: allocations of one forward at batch size 1, without weights and inputs",
)  # fmt: skip
ENERGY = Cost(
    "energy", "energy:microjoules", "uJ", {"nJ": 1e-3, "uJ": 1.0, "mJ": 1e3, "J": 1e6},
    says="one forward takes {} by the model of energy", figure="energy_uj", techniques=("prune", "decompose", "mixed"),
    label="modelled: counts times the energies of Horowitz 2014 (45 nm), not measured", modelled=True,
)  # fmt: skip
