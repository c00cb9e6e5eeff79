"""Technique architecture end to end on a trained digits model."""

from __future__ import annotations

import pytest
import torch
import yaml

from compresskit.artifact.artifact import load
from compresskit.core.errors import GuardMissed
from compresskit.pipeline.recipe import read_recipe, validate
from compresskit.pipeline.runner import Run, run
from compresskit.search.options import SearchOptions
from compresskit.search.tables import ARCHITECTURES

SMALL = {"technique": "architecture", "target_macs": 0.3, "trials": 6, "child_steps": 5, "children": 3}
CHAINS = {"widths": [4, 8, 16], "slots": 4}


def search_recipe(model, policy, **options):
    own = {**SMALL, **(CHAINS if policy != "n2n" else {}), "policy": policy, **options}
    return validate({"model": str(model), "data": "digits", "latency_rounds": 0, "steps": [{"search": own}]})


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("policy", ARCHITECTURES)
def test_a_killed_search_ends_as_one_that_was_not(digits_model, tmp_path, policy):
    seen = []

    def log(line):
        seen.append(line)
        # between the first and the second episode, after the first was written
        if sum(" 5/6" in one for one in seen):
            raise Killed

    with pytest.raises(Killed):
        run(Run(search_recipe(digits_model, policy), tmp_path / "one", log=log))
    lines = []
    resumed = run(Run(search_recipe(digits_model, policy), tmp_path / "one", resume=True, log=lines.append))
    assert any("resumes after" in line for line in lines)
    whole = run(Run(search_recipe(digits_model, policy), tmp_path / "two"))
    first, second = (report["steps"][0]["facts"] for report in (resumed, whole))
    assert first["network"] == second["network"] and first["winner_score"] == second["winner_score"]
    assert [row["score"] for row in first["curve"]] == [row["score"] for row in second["curve"]]
    if policy == "n2n":  # whose students are all as wide as the budget allows
        assert all(row["score"] is not None for row in second["curve"]) and second["macs_kept"] > 0.2
    measured = whole["steps"][0]["measurement"]
    assert second["macs_kept"] <= 0.3 + 1e-9
    assert measured["macs"] == pytest.approx(second["macs_kept"] * whole["original"]["macs"], rel=1e-6)
    weights = [load(tmp_path / name).module.state_dict() for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert (tmp_path / "two" / "recipe.yaml").is_file()


def test_the_recipe_of_n2n_makes_the_same_student(digits_model, tmp_path):
    found = run(Run(search_recipe(digits_model, "n2n", finetune_finalists=2, finetune_steps=8), tmp_path / "found"))
    assert "2 finalists were trained anew for 8 steps; scores are after that" in found["steps"][0]["notes"]
    run(Run(read_recipe(tmp_path / "found" / "recipe.yaml"), tmp_path / "again"))
    first, second = (load(tmp_path / name).module.state_dict() for name in ("found", "again"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_the_recipe_of_a_chain_trains_it_and_it_can_be_pruned(digits_model, tmp_path):
    run(Run(search_recipe(digits_model, "transform", recover="kd", epochs=1, lr=0.1), tmp_path / "found"))
    recipe = yaml.safe_load((tmp_path / "found" / "recipe.yaml").read_text())
    assert recipe["model"] == "builtin:chain"
    assert recipe["steps"] == [{"distill": {"teacher": [str(digits_model)], "epochs": 1, "lr": 0.1}}]
    run(Run(read_recipe(tmp_path / "found" / "recipe.yaml"), tmp_path / "again"))
    shapes = [{n: v.shape for n, v in load(tmp_path / x).module.state_dict().items()} for x in ("found", "again")]
    assert shapes[0] == shapes[1]
    later = {"model": str(tmp_path / "found"), "data": "digits", "latency_rounds": 0}
    run(Run(validate({**later, "steps": [{"prune": {"ratio": 0.5, "round_to": 1}}]}), tmp_path / "pruned"))
    load(tmp_path / "pruned")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "auto"}, "technique 'architecture' takes policy n2n, transform, nas; policy is 'auto'"),
        ({"policy": "nas", "technique": "prune"}, "give technique 'architecture', not 'prune'"),
        ({"policy": "nas", "samples": 99}, "samples would be ignored"),
        ({"policy": "nas", "target_bytes": 0.5}, "bytes does not apply to technique 'architecture'"),
        ({"policy": "n2n", "widths": [4]}, "widths would be ignored: policy is 'n2n'"),
        ({"policy": "nas", "widths": [4, 4]}, "widths must be different"),
        ({"policy": "solve", "technique": "prune", "child_steps": 3}, "child_steps would be ignored"),
    ],
)
def test_refusals(options, message):
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=message):
        SearchOptions.model_validate({"technique": "architecture", "target_macs": 0.5, **options})


def test_networks_that_diverge_end_no_search_but_win_none(digits_model, tmp_path):
    lines = []
    wild = search_recipe(digits_model, "nas", child_lr=1e30, trials=3)
    with pytest.raises(GuardMissed, match="no network within the budget that learned anything; .* lower child_lr"):
        run(Run(wild, tmp_path / "wild", log=lines.append))
    assert sum("the training loss became nan" in line for line in lines) == 3
