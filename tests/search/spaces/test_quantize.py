"""Bits as a search: bytes against the stored file, candidates against the quantized model, half the size by bits."""

from __future__ import annotations

import pytest
import torch

from compresskit.artifact.artifact import load
from compresskit.core.types import call
from compresskit.pipeline.recipe import read_recipe, validate
from compresskit.pipeline.runner import Run, run
from compresskit.quantization.layers.weights import bytes_by_kind
from compresskit.search.carrying_out import carry_out
from compresskit.search.options import SearchOptions
from compresskit.search.spaces.quantize import QuantizeSubject, quantize_options


def subject_of(opened, **values):
    loaded, context = opened
    options = SearchOptions(target_bytes=0.2, technique="quantize", policy="uniform", samples=64, **values)
    return QuantizeSubject(loaded, options, context)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_a_candidate_is_what_the_step_makes(opened, rounding):
    loaded, context = opened
    subject = subject_of(opened, bits=[3, 8], rounding=rounding)
    choice = tuple(number % 2 for number in range(len(subject.places)))
    made = carry_out(subject.steps(choice), loaded.clone(), context).loaded
    built, carried_out = call(subject.build(choice), loaded.example), call(made.module, loaded.example)
    if rounding == "nearest":
        assert torch.allclose(built, carried_out, atol=1e-5)
    else:  # the step rounds each layer behind the quantized ones before it, a candidate behind the float ones
        assert (built - carried_out).norm() < 0.02 * carried_out.norm()
    assert subject.costs(choice)["bytes"] == sum(bytes_by_kind(made.module, made.storage).values())


def test_fewer_bits_leave_larger_errors(opened):
    subject = subject_of(opened)
    for number, place in enumerate(subject.places):
        assert place.labels == ("2 bits", "3 bits", "4 bits", "5 bits", "6 bits", "8 bits")
        errors = subject.errors(number)
        assert errors == sorted(errors, reverse=True) and errors[-1] > 0


@pytest.mark.parametrize("policy", ["haq", "solve"])
def test_bits_are_found_within_the_bytes_and_replayed(digits_model, tmp_path, policy):
    recipe = validate({
        "model": str(digits_model), "data": "digits", "latency_rounds": 0,
        "steps": [{"search": {"technique": "quantize", "target_bytes": 0.16, "policy": policy, "trials": 8,
                              "samples": 64, "probe_samples": 64}}],
    })  # fmt: skip
    report = run(Run(recipe, tmp_path / "found"))
    assert report["steps"][0]["facts"]["bytes_kept"] <= 0.16
    assert report["steps"][0]["measurement"]["metric"]["value"] > 0.8
    run(Run(read_recipe(tmp_path / "found" / "recipe.yaml"), tmp_path / "again"))
    first, second = (load(tmp_path / name).module.state_dict() for name in ("found", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_blocks_of_the_winner_are_tuned_no_longer_than_the_search_took():
    given = {"technique": "quantize", "target_bytes": 0.2}
    timed = quantize_options(SearchOptions(seconds=20, **given), {"*": 2})
    assert timed.reconstruction_seconds == 20
    assert quantize_options(SearchOptions(seconds=5000, **given), {"*": 2}).reconstruction_seconds == 600
    assert "reconstruction_seconds" not in quantize_options(SearchOptions(**given), {"*": 2}).model_fields_set
