"""Fields of options models: help and section, choices from registries, amounts of costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import get_annotations
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
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

from .costs import COSTS, Amount, cost_of, names as cost_names, parse, read_amount
from .errors import InputError
from .registry import REFERENCE, Registry

Model = TypeVar("Model", bound=BaseModel)


def option(
    default: Any,
    help: str,
    *,
    section: str = "Options",
    takes: Literal["", "model", "data", "function", "file", "layers"] = "",
    **constraints: Any,
) -> Any:
    """A field with its help text and the section of `--help` it stands in.

    Args:
        default: the default value; `...` makes the option required.
        help: one line, starting lower-case, units named.
        section: heading in `--help` and in the docs table.
        takes: what the string names: a model, data, a function (Python code may give the thing itself in its place),
            a file, or layers; shells complete it.
        constraints: pydantic's ge, gt, le, lt, min_length, pattern.
    """
    extra: dict[str, JsonValue] = {"section": section, **({"takes": takes} if takes else {})}
    return Field(default, description=help, json_schema_extra=extra, **constraints)


class Choice:
    """Annotates a string that names a row of a registry: `criterion: Annotated[str, choice(CRITERIA)]`.

    The command line reads the rows and their help from here, too.
    """

    def __init__(self, registry: Registry[Any], *, own_only: bool = False):
        self.registry, self.own_only = registry, own_only

    def names(self) -> list[str]:
        """The rows that are valid here."""
        return [name for name in self.registry.rows() if not (self.own_only and self.registry.builtin(name))]

    def _check(self, name: str) -> str:
        if self.own_only and self.registry.builtin(name):
            raise ValueError(f"{self.registry.kind} {name} has an option of its own; this one is for costs of yours")
        return self.registry.check(name)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rows = {"type": "string", "enum": self.names()}
        own = {"type": "string", "pattern": REFERENCE, "description": "your own: file.py:name, package.module:name"}
        if not self.names():
            return own
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
        cost, field = cost_of(name), option_of(name)
        read = BeforeValidator(partial(read_amount, field, name, kept=kept))
        text = help.format(noun=cost.noun, of=COSTS[name].help, example=cost.example())
        fields[field] = (Annotated[float | int | str | None, read], option(None, text, section=section))
    return fields


def with_fields(model: type[Model], fields: dict[str, Any]) -> type[Model]:
    """The same model with further fields."""
    made = create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields)
    made.__qualname__ = model.__qualname__
    made.__annotations__ = {**get_annotations(model), **get_annotations(made)}  # what is its own, and no base's
    return made


def own_amounts_field(option_name: str, help: str, *, kept: bool, section: str) -> tuple[Any, Any]:
    """A field that holds amounts of the user's own costs by name, as `create_model` takes it.

    Args:
        option_name: what the user calls it, for messages.
        help: one line.
        kept: see `costs.read_amount`.
        section: of the field, in help.
    """

    def read(given: dict[str, Any]) -> dict[str, Any]:
        try:
            return {name: read_amount(f"{option_name} {name}", name, one, kept=kept) for name, one in given.items()}
        except InputError as error:
            raise ValueError(str(error)) from error

    kind = dict[Annotated[str, Choice(COSTS, own_only=True)], float | int | str]
    return Annotated[kind, AfterValidator(read)], option({}, help, section=section)


def given_amounts(options: BaseModel, option_of: Callable[[str], str], own_option: str = "") -> dict[str, float | str]:
    """Amounts of costs as some options give them: name -> amount.

    Args:
        options: the options.
        option_of: the option's name for a cost's.
        own_option: the option that holds those of the user's own costs, or "".
    """
    given = {name: getattr(options, option_of(name), None) for name in cost_names()}
    own: dict[str, float | str] = getattr(options, own_option, {})
    return {name: amount for name, amount in given.items() if amount is not None} | own


def amounts_of(options: BaseModel, option_of: Callable[[str], str], own_option: str = "") -> dict[str, Amount]:
    """The same, read."""
    given = given_amounts(options, option_of, own_option)
    return {name: parse(option_of(name), name, amount) for name, amount in given.items()}
