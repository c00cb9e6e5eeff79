"""Guards respect a metric's direction and scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskit.core.errors import GuardMissed
from compresskit.evaluation.metrics import make_metric
from compresskit.pipeline.checks.guards import check_guards
from compresskit.pipeline.measurement import Measurement
from compresskit.training.options import StepOptions


def measured(value):
    return Measurement({}, {"name": "m", "value": value}, None)


@pytest.mark.parametrize(
    ("metric", "before", "after", "max_drop", "says"),
    [
        ("top1", 0.9, 0.88, "1%", "top1 fell by 0.0200, max_drop is 1%"),
        ("top1", 0.9, 0.88, 0.03, ""),
        ("mse", 2.0, 2.3, "10%", "mse rose by 0.3 from 2, max_drop is 10%"),
        ("mse", 2.0, 2.15, "10%", ""),
        ("mse", 2.0, 1.0, 0, ""),
        ("psnr", 30.0, 28.0, "5%", "psnr fell by 2 from 30, max_drop is 5%"),
        ("psnr", 30.0, 29.0, "5%", ""),
        ("wer", 0.10, 0.13, "2%", "wer rose by 0.0300"),
        ("fidelity", 0.0, 0.005, "1%", ""),
    ],
)
def test_a_drop_is_what_is_worse_in_the_metrics_own_way(metric, before, after, max_drop, says):
    options = StepOptions(max_drop=max_drop)
    arguments = (options, "0-prune", measured(after), measured(before), make_metric(metric), Path("nowhere"))
    if not says:
        check_guards(*arguments)
        return
    with pytest.raises(GuardMissed, match=says):
        check_guards(*arguments)


def test_a_budget_that_the_step_missed_counts_as_a_guard():
    arguments = (StepOptions(), "0-prune", measured(0.9), measured(0.9), make_metric("top1"), Path("nowhere"))
    check_guards(*arguments, budgets=[])
    with pytest.raises(GuardMissed, match="step 0-prune: MACs: target_macs asked for 10.0%, 20.0% stay"):
        check_guards(*arguments, budgets=["MACs: target_macs asked for 10.0%, 20.0% stay"])
