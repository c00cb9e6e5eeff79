"""Whatever has a name is explained by it."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.recipe import RecipeOptions
from compresskit.pipeline.reference.explaining import explain_term, explained
from compresskit.pipeline.techniques import STEPS

MODELS = [RecipeOptions, *(technique.options_model() for technique in STEPS.values())]


@pytest.mark.parametrize("name", sorted({name for model in MODELS for name in model.model_fields}))
def test_every_option_is_explained(name):
    records = explain_term(name)
    options = [record for record in records if record["kind"] == "option"]
    assert options
    assert all(record["meaning"] and record["meaning"] in explained(record) for record in options)
    assert explain_term("--" + name.replace("_", "-"))[0] == records[0]


def test_commands_that_say_the_same_share_a_record():
    epochs = explain_term("epochs")
    assert sum(len(record["commands"]) for record in epochs) == 6
    assert len(epochs) < 6


def test_a_row_says_its_table_its_needs_and_its_source():
    (taylor,) = explain_term("taylor")
    assert (taylor["kind"], taylor["needs"], taylor["source"]) == ("criterion", "labels", "Molchanov et al., 2019")
    assert "given by prune --criterion" in explained(taylor)


def test_a_term_is_found_by_each_of_its_words():
    assert explain_term("student")[-1] == explain_term("Teacher")[-1]
    assert explain_term("kd")[-1]["name"] == "knowledge distillation (kd)"


def test_what_has_no_name_is_refused():
    with pytest.raises(InputError, match="nothing is called 'epoch'; did you mean 'epochs'"):
        explain_term("epoch")


@pytest.mark.parametrize(("name", "row"), [("data", "imagefolder"), ("model", "builtin:digits_cnn")])
def test_what_a_string_may_begin_with_is_listed(name, row):
    record = next(record for record in explain_term(name) if record["kind"] == "option")
    assert record["rows"][row] and f"    {row}: " in explained(record)


def test_what_is_like_nothing_is_refused_in_a_short_line():
    with pytest.raises(InputError, match="nothing is called 'xyzzyplugh'; see --help-all") as caught:
        explain_term("xyzzyplugh")
    assert len(str(caught.value)) < 120
