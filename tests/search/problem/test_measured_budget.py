"""The aim of a latency budget follows what is measured; a search under one ends with a measured verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compresskit.core.costs import Amount
from compresskit.core.errors import GuardMissed
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run
from compresskit.search.problem.measured_budget import Compared, verdict, within_measured
from compresskit.search.problem.search_space import Problem
from tests.search.toy import ToyRater, ToySubject


class TimedSubject(ToySubject):
    """The predicted latency of a choice is its MACs."""

    def costs(self, choice):
        macs = super().costs(choice)["macs"]
        return {"macs": macs, "latency": macs}

    def whole_costs(self):
        return {name: float(sum(self.sizes)) for name in ("macs", "latency")}


def timed_problem(share):
    subject = TimedSubject(levels=41)
    return Problem(subject, {"latency": share * sum(subject.sizes)}, ToyRater(subject), trials=40)


def uniform(problem):
    return problem.fitted(np.ones(4))


@pytest.mark.parametrize("measured", [lambda p: p, lambda p: 0.3 + 0.7 * p, lambda p: p**2])
def test_the_measured_share_meets_the_budget(measured):
    problem = timed_problem(0.6)

    def share_of(choice):
        return measured(problem.subject.costs(choice)["latency"] / 5)

    choice, share = within_measured("latency", problem, uniform, share_of)
    assert 0.9 * 0.6 < share <= 0.6 and share == share_of(choice)
    assert problem.fits(choice)


def test_what_never_gets_fast_ends_with_the_fastest():
    problem = timed_problem(0.5)
    choice, share = within_measured("latency", problem, uniform, lambda choice: 0.9 + 0.1 * min(1.0, sum(choice) / 160))
    assert share == 0.9 + 0.1 * min(1.0, sum(choice) / 160) > 0.5 and problem.fits(choice)
    assert problem.subject.costs(choice)["latency"] < 0.5 * 5


def test_an_aim_out_of_reach_is_named():
    problem = timed_problem(0.5)

    def nothing(problem):
        raise GuardMissed("nothing fits")

    with pytest.raises(GuardMissed, match="latency cannot come down to 50.0%"):
        within_measured("latency", problem, nothing, lambda choice: 1.0)


def test_verdict_says_by_how_much_a_budget_is_missed():
    measured = Compared(4.0, 3.0, 0.75)
    facts, line = verdict("latency", measured, Amount(0.6, True))
    assert line == "measured latency is 75.0% of the original's, above the budget of 60.0% by 25.0% of it"
    assert facts["latency_over_budget"] == pytest.approx(0.25) and facts["latency_kept"] == pytest.approx(0.75)
    facts, line = verdict("latency", measured, Amount(3.5, False))
    assert line == "measured latency is 3 ms, within the budget of 3.5 ms" and facts["latency_over_budget"] == 0


@pytest.mark.integration
@pytest.mark.parametrize(("technique", "share"), [("prune", 0.7), ("decompose", 0.9), ("mixed", 0.7)])
def test_a_search_under_a_latency_budget_times_what_it_made(tmp_path, technique, share):
    own = {"technique": technique, "target_latency": share, "policy": "uniform"}
    recipe = validate({
        "model": "builtin:digits_cnn", "data": "digits", "latency_rounds": 0, "latency_batch": 32,
        "steps": [{"search": {**own, "samples": 64, "probe_samples": 64, "score_samples": 64}}],
    })  # fmt: skip
    try:
        step = run(Run(recipe, tmp_path / "found"))["steps"][0]
    except GuardMissed as missed:  # where others share the machine, or no factor is fast, no choice may be fast enough
        assert "target_latency asked for" in str(missed)
        step = json.loads((Path(str(missed.artifact)) / "report.json").read_text())
    assert step["facts"]["latency_kept"] > 0 and step["facts"]["latency_ms_before"] > 0
    assert step["notes"][0].startswith("measured latency is ")
    assert step["facts"]["macs_kept"] < 1
