"""The absolute limits that a budget means. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from ...core.costs import Amount


def limits_of(targets: Mapping[str, Amount], whole: Mapping[str, float]) -> dict[str, float]:
    """Absolute limits: shares are of the whole."""
    return {name: amount.of(whole[name]) if name in whole else amount.value for name, amount in targets.items()}
