"""The recipe: what one YAML file may say, validated as a whole with every error found at once. Imports no torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError, field_validator

from ..core.costs import COSTS
from ..core.errors import InputError, nearest
from ..core.options import LARGEST_SEED, Options, choice, option
from ..data.tables import COLLATES
from ..evaluation.tables import LOSSES, METRICS, TASKS
from ..model.strings import FORMS
from .techniques import STEPS
from .yaml.lines import Lines, line_of, read_yaml, set_value

MOST_LATENCY_ROUNDS = 100_000  # hours for a small model; the clock scatters by far less long before
_MOST_THREADS = 1024  # the runtime starts each one that it is asked for
_MOST_WORKERS = 256
_PARSED = re.compile(r"valid (?=number)|, unable to parse string as an? (?:number|integer)")


class RecipeOptions(Options):
    """What a recipe says besides its steps; technique commands take the same as flags."""

    model: str = option(..., f"model string: {FORMS}", section="Model", takes="model")
    weights: str | None = option(
        None,
        "weights file, or 'pretrained'; .safetensors, .pt, .pth, .ckpt, .bin, shards; FILE#KEY for a part",
        section="Model", takes="file",
    )  # fmt: skip
    model_arg: dict[str, Any] = option({}, "argument of the model's factory, e.g. num_classes=10", section="Model")
    input: list[str] = option(
        [],
        "example input [NAME=]D,D,...[:DTYPE[:HIGH]], no batch dimension; where the model does not say it",
        section="Model",
    )
    source: str | None = option(None, "the user code an artifact was made from, so that it may run", section="Model")
    trust_source: bool = option(False, "run the user code that an artifact carries, or read a .pt2", section="Model")
    data: str | None = option(
        None,
        "data string: digits, imagefolder:DIR, npz:FILE, csv:FILE, path/data.py:factory; none: made from the model",
        section="Data", takes="data",
    )  # fmt: skip
    data_arg: dict[str, Any] = option(
        {}, "argument of the data, e.g. size=64; for images of every form size, mean, std, order, preprocess",
        section="Data",
    )  # fmt: skip
    collate: Annotated[str, choice(COLLATES)] = option(
        "auto", "what makes a batch of a data set's single examples", section="Data"
    )
    task: Annotated[str, choice(TASKS)] = option(
        "auto", "what the model is for; decides metric, task_loss and recover kd where they are auto", section="Data"
    )
    metric: Annotated[str, choice(METRICS)] = option("auto", "what says how good a model is", section="Data")
    metric_arg: dict[str, Any] = option({}, "argument of the metric, e.g. ignore_index=255", section="Data")
    task_loss: Annotated[str, choice(LOSSES)] = option(
        "auto", "what training minimizes against the data's own targets", section="Data"
    )
    task_loss_arg: dict[str, Any] = option(
        {}, "argument of the loss, e.g. class_weights=balanced, delta=0.5, method=training_loss", section="Data"
    )
    eval_limit: int | None = option(None, "evaluate on only this many test examples", section="Data", ge=1)
    eval_batch: int | None = option(
        None, "examples a batch in evaluation; default: what keeps activations small, at most 256", section="Data", ge=1
    )
    workers: int | None = option(
        None,
        "processes that read and augment batches ahead, e.g. 4; default: those of a DataLoader, else none",
        section="Data", ge=0, le=_MOST_WORKERS,
    )  # fmt: skip
    latency_batch: int = option(1, "examples a forward in latency measurements", section="Run", ge=1)
    latency_rounds: int = option(
        12, "A/B rounds in latency measurements; 0 leaves latency unmeasured", section="Run", ge=0,
        le=MOST_LATENCY_ROUNDS,
    )  # fmt: skip
    timings: str | None = option(
        None,
        "artifact of an earlier run, or its report.json: what was timed there decides here too, where a step chooses "
        "by measured times; fresh: measure again what this machine timed for earlier runs",
        section="Run",
    )
    seed: int = option(0, "seed of everything random", section="Run", ge=0, le=LARGEST_SEED)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps ...", section="Run")
    threads: int | None = option(None, "torch threads; default: all cores", section="Run", ge=1, le=_MOST_THREADS)
    output: str | None = option(None, "directory to write the result to", section="Run")

    @field_validator("model_arg", "data_arg", "metric_arg", "task_loss_arg", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return value or {}


@dataclass(frozen=True)
class Step:
    """One validated step of a recipe."""

    technique: str
    options: Any


@dataclass(frozen=True)
class Recipe:
    """A validated recipe."""

    options: RecipeOptions
    steps: tuple[Step, ...]

    def content(self) -> dict[str, Any]:
        """The recipe as plain data, defaults left out: what a YAML file would say."""
        content = self.options.model_dump(exclude_unset=True)
        content["steps"] = [{step.technique: step.options.model_dump(exclude_unset=True)} for step in self.steps]
        return content

    def own_costs(self) -> tuple[str, ...]:
        """The user's own costs that a budget or a guard of a step names."""
        rows = (row for step in self.steps for row in step.options.named_rows())
        return tuple(dict.fromkeys(name for _, registry, name in rows if registry is COSTS))


def place_of(recipe: Recipe, number: int) -> str:
    """How messages call a step: `steps.NUMBER (TECHNIQUE)`, or the technique alone where it is the only one."""
    technique = recipe.steps[number].technique
    return f"steps.{number} ({technique})" if len(recipe.steps) > 1 else technique


def read_recipe(path: str | Path, assignments: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a YAML file, with `--set` assignments applied first.

    Raises:
        InputError: with one line for every error in the file: file, line, key, nearest valid key.
    """
    content, lines = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"recipe {str(path)!r} must be a mapping with model and steps")
    return from_content(content, assignments, where=str(path), lines=lines)


def from_content(
    content: dict[str, Any], assignments: tuple[str, ...] = (), *, where: str = "recipe", lines: Lines | None = None
) -> Recipe:
    """A recipe from plain data, which is changed by `--set` assignments first; see `validate`."""
    for assignment in assignments:
        set_value(content, assignment)
    return validate(content, where=where, lines=lines)


def validate(content: dict[str, Any], *, where: str = "recipe", lines: Lines | None = None) -> Recipe:
    """A recipe from plain data.

    Args:
        content: mapping with RecipeOptions' fields and `steps`, a list of one-key mappings {technique: options}.
        where: file name for errors.
        lines: where each key stands, for errors.
    Raises:
        InputError: all errors, one line each.
    """
    errors: list[str] = []
    content = dict(content)
    raw_steps = content.pop("steps", None)
    options = _validated(RecipeOptions, content, (), errors, where, lines, also=("steps",))
    steps: list[Step] = []
    if not isinstance(raw_steps, list) or not raw_steps:
        errors.append(
            _located(
                where, ("steps",), lines, "steps must be a list with at least one step, e.g. - prune: {ratio: 0.5}"
            )
        )
        raw_steps = []
    for number, raw in enumerate(raw_steps):
        step = _step(raw, ("steps", number), errors, where, lines)
        if step:
            steps.append(step)
    if errors or options is None:
        raise InputError("\n".join(errors))
    return Recipe(options, tuple(steps))


def _step(raw: Any, path: tuple[Any, ...], errors: list[str], where: str, lines: Lines | None) -> Step | None:
    if isinstance(raw, str):
        raw = {raw: {}}
    if not isinstance(raw, dict) or len(raw) != 1:
        errors.append(
            _located(where, path, lines, "a step is one technique with its options, e.g. - prune: {ratio: 0.5}")
        )
        return None
    technique, values = next(iter(raw.items()))
    if technique not in STEPS:
        errors.append(
            _located(
                where,
                (*path, technique),
                lines,
                f"unknown technique {technique!r}{nearest(str(technique), STEPS)}",
            )
        )
        return None
    values = {} if values is None else values
    if not isinstance(values, dict):
        errors.append(
            _located(where, (*path, technique), lines, f"options of {technique} must be a mapping, got {values!r}")
        )
        return None
    options = _validated(STEPS[technique].options_model(), values, (*path, technique), errors, where, lines)
    return Step(technique, options) if options is not None else None


def _validated(model, values, path, errors, where, lines, also=()):
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for location, message in explain(error, model, also):
            errors.append(_located(where, (*path, *location), lines, message))
        return None


def explain(
    error: ValidationError, model: type[Options], also: tuple[str, ...] = ()
) -> list[tuple[tuple[Any, ...], str]]:
    """(location, plain message) of each error of a validation, the nearest valid key or the remedy included."""
    found = []
    for item in error.errors():
        location = (*item["loc"],)
        last = str(location[-1]) if location else ""
        key = location[0] if location else ""
        group = model.groups().get(str(key)) if len(location) > 1 else None
        if item["type"] == "extra_forbidden":
            names = group.model_fields if group else [*(leaf.name for leaf in model.leaves()), *also]
            message = f"unknown key {last!r}{nearest(last, names)}"
        elif item["type"] == "missing":
            message = f"{key} is missing"
        else:
            text = item["msg"].removeprefix("Value error, ")
            text = _PARSED.sub("", text[:1].lower() + text[1:]).replace("a valid integer", "an integer")
            shown = item["input"]
            is_named = text.startswith(("unknown ", last if group else str(key)))
            named = f"{'.'.join(map(str, location))} " if location and not is_named else ""
            message = f"{named}{text.replace('input should', 'should')}"
            if location and item["type"] not in ("value_error", "known_key"):
                message += f", got {shown!r}"
        found.append((location, message))
    return list(dict.fromkeys(found))


def _located(where: str, path: tuple[Any, ...], lines: Lines | None, message: str) -> str:
    line = line_of(path, lines) if lines else None
    parents = ".".join(str(key) for key in (path[:-1] if path and str(path[-1]) in message else path))
    place = f"{where}:{line}" if line else where
    return f"{place}: {parents + ': ' if parents else ''}{message}"


def _define_once(variants: list[dict[str, Any]], definitions: dict[str, Any]) -> None:
    """Options that several techniques have, moved out of them: each is defined once, and referred to."""
    parts = [part["properties"] for variant in variants for part in variant["properties"].values()]
    parts += [
        part["properties"] for one in definitions.values() for part in one.get("anyOf", ()) if "properties" in part
    ]
    texts = [(name, json.dumps(option, sort_keys=True)) for part in parts for name, option in part.items()]
    often = {key for key, times in Counter(texts).items() if times > 1 and "$ref" not in json.loads(key[1])}
    for name, text in sorted(often):
        places = [part for part in parts if name in part and json.dumps(part[name], sort_keys=True) == text]
        key = name
        while key in definitions:  # the same name with another meaning in other techniques
            key += "_"
        definitions[key] = places[0][name]
        for part in places:
            part[name] = {"$ref": f"#/$defs/{key}"}


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    schema = RecipeOptions.model_json_schema()
    definitions = schema.pop("$defs", {})
    variants = []
    for name, technique in STEPS.items():
        part = technique.options_model().model_json_schema()
        definitions |= part.pop("$defs", {})
        part["description"] = technique.summary
        part.pop("title", None)
        variants.append(
            {
                "type": "object",
                "properties": {name: part},
                "required": [name],
                "additionalProperties": False,
            }
        )
    _define_once(variants, definitions)
    schema["properties"]["steps"] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": variants},
        "description": "techniques, applied in order",
    }
    schema["required"] = [*schema.get("required", []), "steps"]
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "compresskit recipe"}
    if definitions:
        schema["$defs"] = definitions
    return schema
