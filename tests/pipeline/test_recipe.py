"""Recipes: validation with lines, assignments, lint, schema."""

from __future__ import annotations

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.checks.lint import lint
from compresskit.pipeline.recipe import RecipeOptions, json_schema, read_recipe, validate
from compresskit.pipeline.reference.docs import options_markdown, starter_recipe
from compresskit.pipeline.techniques import STEPS
from compresskit.pipeline.yaml.lines import read_yaml, set_value


def test_lines_of_nested_keys(tmp_path):
    (tmp_path / "r.yaml").write_text("a: 1\nb:\n  - c: 2\n    d: {e: 3}\n")
    content, lines = read_yaml(tmp_path / "r.yaml")
    assert content == {"a": 1, "b": [{"c": 2, "d": {"e": 3}}]}
    assert (lines["a",], lines["b",], lines["b", 0, "c"], lines["b", 0, "d", "e"]) == (1, 2, 3, 4)


def test_assignments_change_and_add_values(tmp_path):
    (tmp_path / "r.yaml").write_text("model: builtin:lenet5\nsteps:\n  - prune: {ratio: 0.5}\n  - train:\n")
    recipe = read_recipe(
        tmp_path / "r.yaml", ("steps.0.prune.ratio=0.6", "steps.1.train.epochs=3", "data=digits", "model_arg.size=8")
    )
    assert recipe.steps[0].options.ratio == 0.6
    assert recipe.steps[1].options.epochs == 3
    assert recipe.options.data == "digits"
    assert recipe.options.model_arg == {"size": 8}


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("steps", "KEY=VALUE"),
        ("steps.5.x=1", "list of 1"),
        ("steps.x.y=1", "not a position"),
        ("a=[1", "not YAML"),
        ("model.x.y=1", "nothing stands"),
    ],
)
def test_assignments_that_lead_nowhere(assignment, says):
    with pytest.raises(InputError, match=says):
        set_value({"model": "m", "steps": [{"train": {}}]}, assignment)


def test_content_round_trips():
    content = {
        "model": "builtin:lenet5",
        "data": "digits",
        "seed": 5,
        "steps": [{"train": {"epochs": 2.0}}, {"prune": {"ratio": 0.25}}],
    }
    recipe = validate(content)
    assert recipe.content() == content
    assert validate(recipe.content()) == recipe


def test_a_step_may_be_a_bare_name():
    assert validate({"model": "m", "steps": ["quantize"]}).steps[0].technique == "quantize"


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"train": {"epochs": 0}}, "greater than 0, got 0"),
        ({"train": {"optimizer": "adm"}}, "'sgd' or 'adamw', got 'adm'"),
        ({"train": {"lr": float("nan")}}, "finite"),
        ({"train": 3}, "must be a mapping"),
        ({"train": {}, "prune": {}}, "one technique"),
        ({"prune": {"criterion": "l3"}}, "did you mean 'l"),
    ],
)
def test_wrong_values(step, says):
    with pytest.raises(InputError, match=says):
        validate({"model": "m", "steps": [step]})


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        ("quantize", {"prune": {"ratio": 0.5}}, True),
        ("quantize", {"decompose": {}}, True),
        ({"prune": {"ratio": 0.5}}, "quantize", False),
        ("quantize", "train", True),
        ("train", "quantize", False),
    ],
)
def test_lint_finds_orders_that_lose_something(first, second, warned):
    assert bool(lint(validate({"model": "m", "steps": [first, second]}))) == warned


def test_schema_names_every_technique_and_key():
    schema = json_schema()
    json.dumps(schema)
    variants = {next(iter(v["properties"])): v for v in schema["properties"]["steps"]["items"]["anyOf"]}
    assert list(variants) == list(STEPS)
    assert set(schema["properties"]) == {*RecipeOptions.model_fields, "steps"}
    assert variants["train"]["properties"]["train"]["additionalProperties"] is False


def test_starter_recipe_is_a_valid_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(starter_recipe("builtin:lenet5", "digits", "w.safetensors"))
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.options.weights == "w.safetensors"
    assert [step.technique for step in recipe.steps] == ["prune", "quantize"]


def test_options_table_has_a_row_for_every_option():
    text = options_markdown()
    for technique in STEPS.values():
        for field in technique.options_model().model_fields:
            assert f"| `{field}` |" in text
