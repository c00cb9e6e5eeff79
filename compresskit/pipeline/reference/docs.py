"""Texts made from the options models: the starter recipe and the options tables."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal, get_args, get_origin

from ...core.options import Leaf, Options
from ...core.registry import REFERENCE
from ..recipe import RecipeOptions
from ..techniques import STEPS

_STARTER_STEPS: dict[str, dict[str, Any]] = {
    "prune": {"target_macs": 0.5, "recover": "finetune"},
    "quantize": {"scheme": "int8-static"},
}


def starter_recipe(model: str, data: str, weights: str | None = None) -> str:
    """A commented YAML recipe for a model and data; options that are not set stand as comments with their defaults."""
    lines = ["# Run with: compresskit run THIS_FILE   (first with --dry-run)", f"model: {_yaml(model)}"]
    lines.append(f"weights: {_yaml(weights)}" if weights else "# weights: model.safetensors")
    lines += [f"data: {_yaml(data)}", "output: runs/compressed"]
    for name, field in RecipeOptions.model_fields.items():
        if name not in ("model", "weights", "data", "output"):
            lines.append(f"# {name}: {_yaml(default_of(field))}  # {field.description}")
    lines.append("steps:")
    for technique, values in _STARTER_STEPS.items():
        lines.append(f"  - {technique}:")
        lines += _step_lines(STEPS[technique].options_model(), values)
    rest = ", ".join(name for name in STEPS if name not in _STARTER_STEPS)
    lines.append(f"  # further steps: {rest}; their options: compresskit NAME --help")
    return "\n".join(lines) + "\n"


def _step_lines(model: type[Options], values: dict[str, Any]) -> list[str]:
    lines = []
    for name, path, field in model.leaves():
        if len(path) > 1 and name not in model.model_fields:
            continue  # `explain` and the options page say what a group holds
        about = model.model_fields[name].description
        text = f"{name}: {_yaml(values.get(name, default_of(field)))}  # {about}"
        lines.append(f"      {text}" if name in values else f"      # {text}")
    return lines


def default_of(field: Any) -> Any:
    """The default of an option, None where it is required."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _yaml(value: Any) -> str:
    return (
        json.dumps(value)
        if not isinstance(value, str) or not value or set(value) & set("#{}[],&*?|<>=!%@`\"'")
        else value
    )


def options_markdown() -> str:
    """Every option of the recipe and of each technique, as Markdown tables."""
    parts = [
        "# Options",
        "",
        "Made by `compresskit schema --markdown`; the same names hold in YAML and, with dashes, as flags.",
    ]
    parts += ["", "## Recipe", "", *_table(RecipeOptions)]
    for name, technique in STEPS.items():
        parts += ["", f"## {name}", "", technique.summary, "", *_table(technique.options_model())]
    models = [technique.options_model() for technique in STEPS.values()]
    groups = {name: group for model in models for name, group in model.groups().items()}
    for name, group in groups.items():
        about = (
            f"The keys of `{name}`, e.g. `{name}: {{mode: kd, epochs: 2}}`; `{name}: kd` gives `{group.short}` alone."
        )
        beside = "As flags, and in Python, they stand beside the other options: `--recover kd --epochs 2`."
        parts += ["", f"## {name}", "", f"{about} {beside}", "", *_table(group)]
    return "\n".join(parts) + "\n"


def _table(model: type[Options]) -> list[str]:
    rows = ["| option | values | default | meaning |", "| --- | --- | --- | --- |"]
    groups = model.groups()
    for leaf in model.leaves():
        name, field = leaf.path[0], model.model_fields[leaf.path[0]]
        if name in groups and leaf.path[1] != groups[name].short:
            continue
        values = values_of(model, leaf) + (f", or a mapping: [{name}](#{name})" if name in groups else "")
        default = "required" if field.is_required() else f"`{json.dumps(default_of(field))}`"
        rows.append(f"| `{name}` | {values} | {default} | {field.description} |")
    return rows


def values_of(model: type[Options], leaf: Leaf) -> str:
    """What an option takes, as the options tables say it."""
    key = leaf.path[len(leaf.path) - 1]
    owner: type[Options] = model.groups()[leaf.path[0]] if len(leaf.path) > 1 else model
    return _values(leaf.field.annotation, _properties(owner)[key])


@cache
def _properties(model: type[Options]) -> dict[str, Any]:
    schema = model.model_json_schema()
    if "properties" in schema:
        return dict(schema["properties"])
    return dict(next(part for part in schema["anyOf"] if "properties" in part)["properties"])  # a group


#: the types of a share
_SHARE = ["number", "string"]
#: the types of a share or an amount of a cost
_AMOUNT = ["number", "integer", "string"]


def _values(annotation: Any, schema: dict[str, Any]) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{item}`" for item in get_args(annotation))
    names = _names(schema)
    if names == _AMOUNT:
        return "amount"
    return " or ".join(names).replace(" or ".join(_SHARE), "share")


def _names(schema: dict[str, Any]) -> list[str]:
    """What a JSON schema allows, a phrase for each variant."""
    if "anyOf" in schema:
        return [name for variant in schema["anyOf"] for name in _names(variant)]
    kind: str = schema.get("type", "any")
    if kind == "null":
        return []
    if "enum" in schema:
        return [", ".join(f"`{item}`" for item in schema["enum"])]
    if schema.get("pattern") == REFERENCE:
        return ["`file.py:name`"]
    if kind == "array":
        return [f"list of {' or '.join(_names(schema.get('items', {'type': 'values'})))}"]
    return [{"object": "mapping"}.get(kind, kind)]
