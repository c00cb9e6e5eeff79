"""Fields of options models: help and section, choices from registries, amounts of costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import get_annotations
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from .costs import COSTS, Amount, parse, read_amount
from .registry import REFERENCE, Registry

Model = TypeVar("Model", bound=BaseModel)


def option(
    default: Any,
    help: str,
    *,
    section: str = "Options",
    takes: Literal["", "model", "data", "function"] = "",
    **constraints: Any,
) -> Any:
    """A field with its help text and the section of `--help` it stands in.

    Args:
        default: the default value; `...` makes the option required.
        help: one line, starting lower-case, units named.
        section: heading in `--help` and in the docs table.
        takes: what Python code may give in the place of the string: a module, data, or a function.
        constraints: pydantic's ge, gt, le, lt, min_length, pattern.
    """
    extra: dict[str, JsonValue] = {"section": section, **({"takes": takes} if takes else {})}
    return Field(default, description=help, json_schema_extra=extra, **constraints)


class Choice:
    """Annotates a string that names a row of a registry: `criterion: Annotated[str, choice(CRITERIA)]`.

    The command line reads the rows and their help from here, too.
    """

    def __init__(self, registry: Registry[Any]):
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.registry.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rows = {"type": "string", "enum": list(self.registry.rows())}
        own = {"type": "string", "pattern": REFERENCE, "description": "your own: file.py:name, package.module:name"}
        return {"anyOf": [rows, own]} if self.registry.group else rows


def choice(registry: Registry[Any]) -> Choice:
    """The annotation of a string whose valid values are a registry's names, or a user's own row."""
    return Choice(registry)


def registry_of(annotation: Any, metadata: Sequence[Any] = ()) -> Registry[Any] | None:
    """The registry whose names an annotated type takes, wherever in it (`list[Annotated[str, choice(X)]] | None`).

    Args:
        annotation: a field's type.
        metadata: what stood beside it, which pydantic keeps apart.
    """
    for item in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(item, Choice):
            return item.registry
    parts = (registry_of(part) for part in get_args(annotation))
    return next((part for part in parts if part is not None), None)


def amount_fields(names: Iterable[str], option_of: Callable[[str], str], help: str, **settings: Any) -> dict[str, Any]:
    """Fields that hold amounts of costs, as `create_model` takes them.

    Args:
        names: the costs, rows of `costs.COSTS`.
        option_of: the option's name for a cost's.
        help: with {noun}, {of} and {example} of the cost.
        settings: `section`; `kept`: see `costs.read_amount`.
    """
    kept, section = settings.pop("kept"), settings.pop("section")
    fields = {}
    for name in names:
        cost, field = COSTS[name], option_of(name)
        read = BeforeValidator(partial(read_amount, field, name, kept=kept))
        text = help.format(noun=cost.noun, of=cost.help, example=cost.example())
        fields[field] = (Annotated[float | int | str | None, read], option(None, text, section=section))
    return fields


def with_fields(model: type[Model], fields: dict[str, Any]) -> type[Model]:
    """The same model with further fields."""
    made = create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)
    made.__qualname__ = model.__qualname__
    made.__annotations__ = {**get_annotations(model), **get_annotations(made)}  # what is its own, and no base's
    return made


def amounts_of(options: BaseModel, option_of: Callable[[str], str]) -> dict[str, Amount]:
    """The costs of which some options give an amount: name -> amount."""
    found = {}
    for name in COSTS:
        given = getattr(options, option_of(name), None)
        if given is not None:
            found[name] = parse(option_of(name), name, given)
    return found
