"""A search that the system kills goes on as if it had not been: samplers, agents, probes, whole networks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from compresskit.search.spaces.prune import PruneSubject

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _optuna():
    pytest.importorskip("optuna")


SEARCHES = {
    "tpe": ["--policy", "tpe"],
    "amc": ["--policy", "amc"],
    "solve": ["--policy", "solve", "--probe", "measure"],
}


def lines_of(output):
    """What a search has scored so far, a line each."""
    found = list(output.with_name(f"{output.name}.steps").glob("0-search.work/*/ratings.jsonl"))
    return found[0].read_text().splitlines() if found else []


def killed(command, output, lines):
    """Start a search and kill it once it has scored so many candidates; what it had scored."""
    process = subprocess.Popen([sys.executable, "-m", "compresskit", *command], stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and len(lines_of(output)) < lines:
            time.sleep(0.005)
    finally:
        process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    return lines_of(output)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_killed_search_ends_as_one_that_was_not(name, digits_model, tmp_path, invoke, monkeypatch):
    built = []
    build = PruneSubject.build
    monkeypatch.setattr(PruneSubject, "build", lambda self, choice: built.append(choice) or build(self, choice))
    command = ["search", str(digits_model), *SEARCHES[name], "--data", "digits", "--target-macs", "0.4",
               "--trials", "8", "--samples", "64", "--probe-samples", "32", "--latency-rounds", "0",
               "--json"]  # fmt: skip
    done = killed([*command, "-o", str(tmp_path / "killed")], tmp_path / "killed", 4)
    assert not (tmp_path / "killed").exists()
    facts, counts = [], []
    for output, more in (("killed", ["--resume"]), ("whole", [])):
        code, out, errors = invoke(*command, "-o", str(tmp_path / output), *more)
        assert code == 0, errors
        facts.append(json.loads(out)["steps"][0]["facts"])
        counts.append(len(built))
        built.clear()
    resumed, whole = facts
    assert resumed["choice"] == whole["choice"]
    assert [row["score"] for row in resumed["curve"]] == [row["score"] for row in whole["curve"]]
    assert counts[0] == counts[1] - len(done)  # what was scored before is not scored again
