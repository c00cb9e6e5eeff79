"""What `decompose` would refuse only later, found out before any work."""

from __future__ import annotations

from ..core.types import Loaded
from ..training.context import Context
from .decompose import merge_factors, sites_for
from .options import DecomposeOptions


def check(loaded: Loaded, options: DecomposeOptions, context: Context) -> None:
    """Find the layers that the options let be decomposed.

    Args:
        loaded: a copy of the model, which this may change.
        options: of the step.
        context: the device.
    Raises:
        InputError: if there are none, or a pattern matches no layer.
    """
    if options.recompose:
        merge_factors(loaded)
        return
    loaded.module.to(context.device).eval()
    sites_for(loaded, options)
