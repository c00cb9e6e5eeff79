"""Options of `prune`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from ..core.options import StepOptions, choice, option
from .tables import CRITERIA, SCOPES


class PruneOptions(StepOptions):
    """Remove channels, weights or blocks."""

    granularity: Literal["channel"] = option("channel", "what goes: channels (real removal)", section="What goes")
    ratio: float | None = option(None, "share of channels removed, e.g. 0.5", section="How much", gt=0, lt=1)
    target_macs: float | None = option(
        None, "share of multiply-accumulates kept, e.g. 0.5", section="How much", gt=0, lt=1
    )
    target_params: float | None = option(None, "share of parameters kept, e.g. 0.5", section="How much", gt=0, lt=1)
    ratios: dict[str, float] = option(
        {}, "share removed from layers whose name matches: PATTERN=SHARE", section="How much"
    )
    protect: list[str] = option([], "layers that stay whole, by name pattern", section="How much")
    round_to: int = option(
        8,
        "widths stay multiples of this (narrow layers take the largest power of two up to an eighth of their width)",
        section="How much",
        ge=1,
    )
    min_channels: int = option(2, "fewest channels (or heads) left of a group", section="How much", ge=1)
    floor: float = option(0.1, "smallest share of a group that stays", section="How much", ge=0, lt=1)
    criterion: choice(CRITERIA) = option("l2", "how channels are ranked", section="Which")
    scope: choice(SCOPES) = option("local", "which channels compete with each other", section="Which")
    reduction: Literal["sum", "mean", "max", "first"] = option(
        "mean", "how scores of the layers that share a channel combine", section="Which"
    )
    normalize: Literal["none", "mean", "max", "sum", "median", "macs"] = option(
        "mean", "scores are divided by this before groups compete; macs: by what a unit costs", section="Which"
    )
    samples: int = option(2048, "calibration examples", section="Calibration", ge=1)
    points: int = option(
        16, "positions of a feature map sampled from each calibration example", section="Calibration", ge=1
    )
    recalibrate: Literal["auto", "never"] = option(
        "auto", "estimate BatchNorm statistics again after the cut, where there is data", section="After the cut"
    )
    reconstruct: Literal["none", "inputs", "sequential"] = option(
        "none",
        "refit layers that lost inputs: inputs (from the whole model's activations, one run) or sequential "
        "(from the cut model's, one run a layer, mends what earlier layers left)",
        section="After the cut",
    )
    ridge: float = option(1e-3, "pull of refitted weights towards the cut ones", section="After the cut", ge=0)
    attention: Literal["heads", "dims"] = option(
        "heads", "attention loses whole heads, or the same dimensions of every head", section="What goes"
    )

    @model_validator(mode="after")
    def _one_amount(self) -> PruneOptions:
        given = [name for name in ("ratio", "target_macs", "target_params") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        if not given and not self.ratios:
            raise ValueError("nothing says how much to prune; give ratio (e.g. 0.5) or target_macs (e.g. 0.5)")
        for pattern, share in self.ratios.items():
            if not 0 <= share < 1:
                raise ValueError(f"ratios: {pattern}={share} must be at least 0 and below 1")
        return self
