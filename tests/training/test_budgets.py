"""Options made from the table of costs, keys that were renamed, and keys of other techniques."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compresskit.core.costs import Amount, names
from compresskit.core.options import Options
from compresskit.decomposition.options import DecomposeOptions
from compresskit.pipeline.recipe import validate
from compresskit.pruning.options import PruneOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.search.options import SearchOptions
from compresskit.training.options import StepOptions


def test_every_technique_takes_the_costs_that_it_changes():
    for technique, model in (("prune", PruneOptions), ("decompose", DecomposeOptions), ("quantize", QuantizeOptions)):
        fields = {f"target_{name}" for name in names(technique=technique)}
        assert {name for name in model.model_fields if name.startswith("target_") and name != "target_bits"} == fields
        assert {"target", "max"} <= set(model.model_fields)
    assert {f"target_{name}" for name in names()} <= set(SearchOptions.model_fields)
    assert {f"max_{name}" for name in names()} <= set(StepOptions.model_fields)


def test_amounts_are_read_once_for_all():
    assert PruneOptions(target_bytes="1MB").targets() == {"bytes": Amount(1e6, False)}
    assert DecomposeOptions(target_latency="2ms").targets() == {"latency": Amount(2.0, False)}
    given = SearchOptions(target_macs="50%", target_bytes=0.25)
    assert given.targets() == {"macs": Amount(0.5, True), "bytes": Amount(0.25, True)}
    assert SearchOptions(**given.model_dump(exclude_unset=True)) == given
    assert StepOptions(max_bytes=10, max_memory="2KB").limits() == {
        "bytes": Amount(10, False), "memory": Amount(2000, False)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (DecomposeOptions, {"ratio": 0.5}, "ratio is now keep_ratio"),
        (SearchOptions, {"budget": {"macs": 0.5}}, "budget is now one option a cost: target_macs, target_params"),
        (QuantizeOptions, {"target_macs": 0.5}, "target_macs is no budget of quantize, .* one of prune, decompose"),
        (DecomposeOptions, {"target_memory": 0.5}, "target_memory is no budget of decompose"),
        (PruneOptions, {"target_energy": 1.5}, "target_energy is the share that is kept"),
        (SearchOptions, {"target_memory": 0.5, "technique": "decompose"}, "does not apply to technique 'decompose'"),
        (SearchOptions, {"technique": "quantize", "target_macs": 0.5}, "does not apply to technique 'quantize'"),
        (SearchOptions, {"target_memory": 0.5, "target_latency": 0.5}, "target_latency and target_memory exclude"),
        (SearchOptions, {"target_drop": 0.01, "target_latency": 0.5}, "target_latency and target_drop exclude"),
        (PruneOptions, {"cuts_follow": "cubic", "cuts": 2}, "(?s)cuts_follow is now schedule.*cuts is now steps"),
        (PruneOptions, {"ratio": 0.5, "floor": 0.2}, "floor is now min_keep_ratio"),
        (PruneOptions, {"ratio": 0.5, "points": 4}, "points is now positions_per_sample"),
        (PruneOptions, {"ratio": 0.5, "schedule": "cosine", "recover": "kd"}, "'cosine' is now lr_schedule 'cosine'"),
        (DecomposeOptions, {"schedule": "cosine", "recover": "kd"}, "schedule is now lr_schedule"),
        (SearchOptions, {"target_macs": 0.5, "floor": 0.2}, "floor is now min_keep_ratio"),
        (SearchOptions, {"target_drop": "1ms"}, "target_drop must be a share"),
    ],
)
def test_refusals(model, given, message):
    with pytest.raises(ValidationError, match=message):
        model(**given)


def test_old_keys_of_a_recipe_are_named_with_their_line_beside_all_other_errors():
    from compresskit.core.errors import InputError

    steps = [{"search": {"budget": {"macs": 0.5}, "levels": 1}}, {"decompose": {"ratio": 0.5}}]
    with pytest.raises(InputError) as error:
        validate({"model": "builtin:lenet5", "steps": steps})
    first, second, third = str(error.value).splitlines()
    assert "levels should be greater" in first and "budget is now one option a cost" in second
    assert third == "recipe: steps.1.decompose: ratio is now keep_ratio, the share of its MACs that each layer keeps"


def test_a_model_says_what_became_of_keys_and_no_more():
    class Own(Options):
        renamed = {"old": "new"}
        new: int = 1

    assert Own(new=2).new == 2
    with pytest.raises(ValidationError, match="old is now new"):
        Own(old=3)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted") as error:
        Own(other=3, new="x")
    assert {line["type"] for line in error.value.errors()} == {"extra_forbidden", "int_parsing"}
