"""Bit allocation: exact against brute force, sensitivities measured, budgets met."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from compresskit.core.errors import InputError
from compresskit.quantization.layers.weights import bytes_by_kind
from compresskit.quantization.mixed_precision.allocation import Choice, plot, sensitivities, solve


def brute_force(menus, budget):
    fitting = [choices for choices in itertools.product(*menus) if sum(c.cost for c in choices) <= budget]
    return min(sum(c.damage for c in choices) for choices in fitting)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
@pytest.mark.integration
def test_equals_brute_force(data):
    choice = st.builds(Choice, st.just(0), st.integers(0, 12), st.floats(0, 10))
    menus = data.draw(st.lists(st.lists(choice, min_size=1, max_size=4), min_size=1, max_size=5))
    least = sum(min(c.cost for c in menu) for menu in menus)
    budget = least + data.draw(st.integers(0, 25))
    chosen = solve(menus, budget)
    assert all(c in menu for c, menu in zip(chosen, menus, strict=True))
    assert sum(c.cost for c in chosen) <= budget
    assert sum(c.damage for c in chosen) == pytest.approx(brute_force(menus, budget), abs=1e-9)


def test_a_budget_below_the_smallest_is_refused():
    with pytest.raises(InputError, match="below the smallest possible, 7 bytes"):
        solve([[Choice(2, 3, 1.0)], [Choice(2, 4, 1.0), Choice(4, 8, 0.0)]], 6)


def test_sensitivity_is_the_measured_divergence_and_the_model_is_restored():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).eval()
    before = model[2].weight.detach().clone()
    changed = before + torch.randn(5, 4)
    batches = [torch.randn(6, 3), torch.randn(2, 3)]
    found = sensitivities(model, {"2": {2: lambda: {"weight": changed}, 8: lambda: {"weight": before}}}, batches)
    inputs = torch.cat(batches)
    with torch.no_grad():
        wanted = model(inputs).log_softmax(1)
        moved = nn.functional.linear(model[:2](inputs), changed, model[2].bias).log_softmax(1)
    expected = float((wanted.exp() * (wanted - moved)).sum(1).mean())
    assert found["2"][2] == pytest.approx(expected, rel=1e-4)
    assert found["2"][8] == 0.0
    assert torch.equal(model[2].weight, before)


@pytest.mark.integration
def test_budget_through_the_step(run):
    result = run(scheme="int8-weight", target_bits=4.0, first_last="same", candidate_bits=[2, 3, 4, 8])
    rows = result.tables["sensitivity"]
    bits = {row["layer"]: row["bits"] for row in result.tables["quantized layers"]}
    assert {row["layer"]: row["chosen_bits"] for row in rows} == bits
    assert result.facts["average_bits"] <= 4.0
    assert len(set(bits.values())) > 1
    # more bits never hurt more, up to the noise of rounding
    assert all(row["damage_at_8"] < row["damage_at_2"] for row in rows)


def test_fixed_layers_count_against_the_budget(run):
    result = run(scheme="int8-weight", target_bits=4.0, bits_for={"left": 8}, candidate_bits=[2, 4], first_last="same")
    bits = {row["layer"]: row["bits"] for row in result.tables["quantized layers"]}
    assert bits["left"] == 8 and result.facts["average_bits"] <= 4.0
    with pytest.raises(InputError, match="spent by layers of fixed bits"):
        run(scheme="int8-weight", target_bits=2.0, bits_for={"le*": 8, "stem.*": 8}, first_last="same")
    with pytest.raises(InputError, match="fix every layer"):
        run(scheme="int8-weight", target_bits=2.0, bits_for={"*": 8})


def test_plot_is_written(tmp_path):
    pytest.importorskip("matplotlib")
    plot({"a": {2: 0.5, 4: 0.1}, "b": {2: 0.2, 4: 0.01}}, tmp_path / "s.svg")
    assert (tmp_path / "s.svg").read_text().lstrip().startswith("<?xml")


def test_number_formats_are_candidates_with_all_their_bytes(run):
    options = {"candidate_bits": [2], "candidate_formats": ["nf4", "mxfp4"], "first_last": "same"}
    result = run(scheme="int8-weight", target_bits=7.0, **options)
    chosen = {row["layer"]: row["format"] for row in result.tables["quantized layers"]}
    assert set(chosen.values()) & {"nf4", "mxfp4"}
    count = sum(row["weights"] for row in result.tables["quantized layers"])
    stored = sum(row["stored_bytes"] for row in result.tables["quantized layers"])
    assert result.facts["average_bits"] == pytest.approx(8 * stored / count, abs=1e-3)
    assert result.facts["average_bits"] <= 7


@pytest.mark.parametrize("target", [0.28, "33%"])
@pytest.mark.integration
def test_a_budget_of_bytes_holds_for_all_that_is_stored(run, loaded_net, target):
    options = {"scheme": "int8-weight", "target_bytes": target, "first_last": "same", "candidate_bits": [2, 3, 4, 8]}
    facts = run(**options).facts
    share = 0.33 if target == "33%" else 0.28
    whole = sum(bytes_by_kind(loaded_net().module).values())
    assert 0.6 * share * whole < facts["tensor_bytes"] <= share * whole
