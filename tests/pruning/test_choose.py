import numpy as np
import pytest
from pydantic import ValidationError

from compresskit.core.source import load_model
from compresskit.core.types import Context
from compresskit.pruning.choose import shares_by_depth
from compresskit.pruning.graph import Group
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured import prune


def groups(count):
    return [Group(str(number), np.arange(4), ()) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (3, [0.2, 0.6], [0.2, 0.4, 0.6]),
        (5, [0.0, 0.5, 0.1], [0.0, 0.25, 0.5, 0.3, 0.1]),
        (1, [0.2, 0.6], [0.2]),
        (2, [0.3], [0.3, 0.3]),
    ],
)
def test_shares_are_spread_over_the_depth(count, shares, expected):
    assert list(shares_by_depth(groups(count), shares).values()) == pytest.approx(expected)


def test_later_layers_lose_more_and_overrides_win():
    loaded = load_model("builtin:cifar_plain20")
    options = PruneOptions(depth_ratios=[0.0, 0.75], ratios={"layer1.0.conv1": 0.5}, round_to=1)
    result = prune(loaded, options, Context(loaded.clone()))
    kept = {row["group"]: row["kept"] / row["units"] for row in result.tables["pruned groups"]}
    assert kept.pop("layer1.0.conv1") == 0.5
    assert list(kept.values()) == sorted(kept.values(), reverse=True) and len(set(kept.values())) > 3
    assert min(kept.values()) == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_ratios": [0.2], "target_macs": 0.5}, "depth_ratios and target_macs exclude each other"),
        ({"depth_ratios": [0.2, 1.0]}, "depth_ratios: 1.0 must be at least 0 and below 1"),
        ({"target_latency": 0.5, "granularity": "block"}, "would be ignored with granularity 'block'"),
        ({"target_latency": 1.5}, "less than 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValidationError, match=message):
        PruneOptions(**options)


def test_a_budget_in_bytes_that_is_missed_is_compared_with_bytes():
    loaded = load_model("builtin:digits_cnn")
    result = prune(loaded, PruneOptions(target_bytes=2000, floor=0.5), Context(loaded.clone()))
    assert any(note.startswith("bytes: asked to keep") and "allow no less" in note for note in result.notes)
