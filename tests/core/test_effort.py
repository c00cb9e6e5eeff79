"""Efforts: what they choose, what wins over them, and the work that options ask for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compresskit.core.effort import Passes
from compresskit.decomposition.options import DecomposeOptions
from compresskit.distillation.options import DistillOptions
from compresskit.pruning.options import PruneOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.search.options import SearchOptions
from compresskit.training.options import RecoverOptions, TrainStepOptions


def test_an_effort_sets_what_was_left_open_and_given_options_win():
    fast = PruneOptions(ratio=0.5, effort="fast", iterations=7)
    assert fast.samples == 512 and fast.iterations == 7 and fast.joint_iterations == 300
    assert fast.effort_chooses() == {"samples": 512, "reconstruction_seconds": 60.0, "joint_iterations": 300}
    assert fast.model_dump(exclude_unset=True) == {"ratio": 0.5, "effort": "fast", "iterations": 7}
    assert PruneOptions(ratio=0.5).effort_chooses() == {} and PruneOptions(ratio=0.5).samples == 2048


def test_it_names_only_what_is_read():
    assert "epochs" not in PruneOptions(ratio=0.5, effort="best").effort_chooses()
    trained = PruneOptions(ratio=0.5, effort="best", recover="kd")
    assert trained.effort_chooses() == {"samples": 8192, "epochs": 3.0} and trained.recover.epochs == 3.0
    assert PruneOptions(ratio=0.5, effort="best", recover={"mode": "kd", "epochs": 2}).recover.epochs == 2.0
    assert RecoverOptions().epochs == 1.0  # the default that others share stays
    assert QuantizeOptions(effort="fast").effort_chooses() == {"calibration_samples": 128}
    assert "iterations" in QuantizeOptions(effort="fast", scheme="int4-weight").effort_chooses()
    architecture = SearchOptions(technique="architecture", policy="n2n", target_macs=0.5, effort="fast")
    assert architecture.effort_chooses() == {"trials": 25, "score_samples": 500}


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (PruneOptions, {"ratio": 0.5}),
        (PruneOptions, {"ratio": 0.5, "recover": "kd"}),
        (QuantizeOptions, {"scheme": "int4-weight"}),
        (DecomposeOptions, {}),
        (SearchOptions, {"target_macs": 0.5}),
        (TrainStepOptions, {}),
        (DistillOptions, {}),
    ],
)
def test_more_effort_is_more_work(model, given):
    fast, default, best = (sum(model(**given, effort=effort).passes(50_000)) for effort in ("fast", "default", "best"))
    assert 0 < fast < default < best


def test_passes_are_added_up_and_automatic_tuning_has_an_end():
    assert Passes(1, 2).plus(Passes(3, 4)) == Passes(4, 6)
    assert PruneOptions(ratio=0.5).seconds_at_most() == 600
    assert PruneOptions(ratio=0.5, recover="kd").seconds_at_most() is None
    assert PruneOptions(ratio=0.5, reconstruct="block").seconds_at_most() is None
    assert SearchOptions(target_macs=0.5, seconds=20).seconds_at_most() == 20


def test_an_unknown_effort_is_refused():
    with pytest.raises(ValidationError, match="'fast', 'default' or 'best'"):
        PruneOptions(ratio=0.5, effort="most")
