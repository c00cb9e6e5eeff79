"""A program that knows the names of model and data alone gets to half the size in six commands, by help and JSON."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = pytest.mark.slow
ACCURACY = 0.93


def test_half_the_size_at_an_accuracy_in_six_commands(invoke, tmp_path):
    spent = []

    def ask(*command):
        spent.append(command)
        code, out, err = invoke(*command)
        assert code == 0, err
        return out

    assert re.search(r"^ +prune +", ask("--help"), flags=re.M)
    base = str(tmp_path / "base")
    trained = json.loads(
        ask("train", "builtin:digits_cnn", "--data", "digits", "--epochs", "4", "--lr", "0.1", "--batch-size", "64",
            "--latency-rounds", "0", "--json", "-o", base)
    )  # fmt: skip
    assert trained["steps"][0]["measurement"]["metric"]["value"] > ACCURACY
    shown = ask("prune", "--help-all")
    flag = re.search(r"(--target-bytes|--target-params) ", shown)[1]
    assert "--recover" in shown and "--max-drop" in shown
    half = str(tmp_path / "half")
    report = json.loads(
        ask("prune", base, "--data", "digits", flag, "0.48", "--recover", "kd", "--epochs", "2", "--max-drop", "0.03",
            "--latency-rounds", "0", "--json", "-o", half)
    )  # fmt: skip
    before, after = report["original"], report["steps"][-1]["measurement"]
    assert after["size_bytes"] <= 0.5 * before["size_bytes"] and after["metric"]["value"] > ACCURACY
    assert all(row["passed"] for row in json.loads(ask("verify", half, "--json")))
    assert len(spent) <= 6
