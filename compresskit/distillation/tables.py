"""The table of distillation losses. Imports no torch."""

from __future__ import annotations

from ..core.table import Row, Table

LOSSES = Table(
    "distillation loss",
    "compresskit.distillation.losses",
    {
        "kd": Row(
            "logits:KD", "divergence of softened logits; weight 0.9, and 0.1 for the targets", "Hinton et al., 2015"
        ),
    },
)
