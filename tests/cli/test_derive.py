"""Flags and YAML keys come from the same fields."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import click
import pytest

from compresskit.cli.derive import FieldOption, flag_of, given_values, options_of
from compresskit.cli.technique import technique_command
from compresskit.core.options import Options, choice, option
from compresskit.core.registry import Registry, Row
from compresskit.pipeline.recipe import RecipeOptions, json_schema
from compresskit.pipeline.techniques import TECHNIQUES

NOT_OPTIONS = {
    "model", "output", "force", "resume", "as_json", "json_lines", "log_level", "quiet", "help", "dry_run",
}  # fmt: skip


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_flag_is_a_yaml_key_and_the_reverse(name):
    command = technique_command(name)
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    flags = {parameter.name for parameter in shown} - NOT_OPTIONS
    schema = json_schema()
    variant = next(v for v in schema["properties"]["steps"]["items"]["anyOf"] if name in v["properties"])
    keys = set(variant["properties"][name]["properties"]) | (set(RecipeOptions.model_fields) - {"model", "output"})
    if "recover" in keys:  # whose options are flags by themselves; the mode is given by the group's name
        group = next(one for one in schema["$defs"]["RecoverOptions"]["anyOf"] if "properties" in one)["properties"]
        keys |= {f"recover_{key}" if key in keys else key for key in group if key != "mode"}
    assert flags == keys
    assert {option for parameter in command.params for option in parameter.opts if option.startswith("--")} >= set(
        map(flag_of, keys)
    )


@pytest.mark.parametrize("name", TECHNIQUES)
def test_technique_and_recipe_options_have_different_names(name):
    assert not set(TECHNIQUES[name].options_model().model_fields) & set(RecipeOptions.model_fields)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_help_shows_every_option_and_every_choice(name, capsys):
    command = technique_command(name)
    context = click.Context(command, info_name=name, max_content_width=200)
    with pytest.raises(click.exceptions.Exit):
        command.parse_args(context, ["--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    for parameter in command.params:
        if isinstance(parameter, FieldOption) and not parameter.hidden:
            assert parameter.opts[0] in text
            assert parameter.help, f"{parameter.opts[0]} has no help"


COLOURS = Registry("colour", "nowhere", {"red": Row("x:red", "like blood"), "blue": Row("x:blue", "like the sea")})


class Sample(Options):
    """One field of each kind that flags are made of."""

    count: int = option(1, "how many", ge=1)
    share: float | None = option(None, "how much")
    colour: Annotated[str, choice(COLOURS)] = option("red", "which colour")
    colours: list[Annotated[str, choice(COLOURS)]] = option([], "several colours")
    mode: Literal["a", "b"] = option("a", "which mode")
    strict: bool = option(False, "refuse more")
    names: list[str] = option([], "names")
    ratio_for: dict[str, float] = option({}, "ratio by name")


def parsed(*arguments: str) -> dict:
    options = options_of(Sample)
    command = click.Command("sample", params=options)
    context = command.make_context("sample", list(arguments))
    return given_values(options, context.params)


def test_only_what_is_given_is_passed_on():
    assert parsed() == {}


def test_each_kind_of_field_reads_its_flag():
    values = parsed(
        "--count",
        "3",
        "--share",
        "0.5",
        "--colour",
        "blue",
        "--colours",
        "red",
        "--colours",
        "blue",
        "--mode",
        "b",
        "--strict",
        "--names",
        "x",
        "--ratio-for",
        "layer1.*=0.25",
    )
    assert Sample.model_validate(values) == Sample(
        count=3,
        share=0.5,
        colour="blue",
        colours=["red", "blue"],
        mode="b",
        strict=True,
        names=["x"],
        ratio_for={"layer1.*": 0.25},
    )


def test_a_table_row_appears_in_help_schema_and_validation():
    text = next(parameter.help for parameter in options_of(Sample) if parameter.field == "colour")
    assert "blue: like the sea" in text
    assert Sample.model_json_schema()["properties"]["colour"]["enum"] == ["red", "blue"]
    with pytest.raises(ValueError, match="did you mean 'blue'"):
        Sample(colour="bleu")


def test_a_pair_without_equals_is_refused():
    with pytest.raises(click.BadParameter, match="KEY=VALUE"):
        parsed("--ratio-for", "layer1")


def test_flags_of_a_group_go_under_its_key():
    command = technique_command("search")
    context = command.make_context("search", ["m", "--recover", "kd", "--epochs", "2", "--recover-warmup", "10%"])
    given = given_values(command.params, context.params)
    assert given == {"recover": {"mode": "kd", "epochs": 2.0, "warmup": "10%"}}


@pytest.mark.integration
def test_each_option_of_training_is_defined_once():
    schema = json_schema()
    text = json.dumps(schema)
    assert text.count('"peak learning rate"') == 1 and text.count('"largest gradient norm"') == 1
    jsonschema = pytest.importorskip("jsonschema")
    for recover in ("kd", {"mode": "kd", "epochs": 2}):
        jsonschema.validate({"model": "m", "steps": [{"prune": {"ratio": 0.5, "recover": recover}}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"model": "m", "steps": [{"prune": {"ratio": 0.5, "recover": {"mode": "kdd"}}}]}, schema)
