"""A model is judged as the steps of a run judge it."""

from __future__ import annotations

import json

import pytest

import compresskit


@pytest.mark.integration
def test_evaluate_says_what_a_run_would(invoke, tmp_path):
    trained = compresskit.train("builtin:digits_cnn_small", data="digits", epochs=1, latency_rounds=0)
    trained.save(tmp_path / "net")
    code, out, _ = invoke("evaluate", str(tmp_path / "net"), "--data", "digits", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["metric"] == trained.report["steps"][-1]["measurement"]["metric"]
    assert found["macs"] == trained.report["steps"][-1]["measurement"]["macs"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]
    code, out, _ = invoke("evaluate", str(tmp_path / "net"), "--data", "digits", "--metric", "top5", "-q")
    assert code == 0
    assert out.startswith("top5 0.") or out.startswith("top5 1.")
    assert "on 360 examples" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "needs data"),
        (("--data", "digits", "--metric", "tpo1"), "did you mean 'top1'"),
        (("--data", "x"), "data 'x'"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(arguments, says, invoke):
    code, out, err = invoke("evaluate", "builtin:digits_cnn_small", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert says in err
