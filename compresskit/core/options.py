"""Options models: the one place where a technique's options are declared.

Flags, YAML keys, validation, help, JSON schema and the docs table all come from these fields.
Imports pydantic but never torch, so help stays fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from .costs import Amount, guard_of, names
from .drops import read_drop
from .fields import (
    Choice as Choice,
    Model,
    amount_fields,
    amounts_of,
    choice as choice,
    given_amounts,
    option as option,
    own_amounts_field,
    registry_of as registry_of,
    with_fields,
)
from .registry import Registry

_TOO_LARGE = 1 << 63  # tensors count in 64 bits, and so does everything that reads an option
LARGEST_SEED = (1 << 32) - 1  # NumPy's generators take no larger one


def _names_keys(annotation: Any) -> bool:
    """Whether it is the keys of a mapping that name rows, and not its values."""
    if get_origin(annotation) is dict:
        return registry_of(get_args(annotation)[0]) is not None
    return any(_names_keys(part) for part in get_args(annotation))


def _largest_integer(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, Mapping):
        return max(map(_largest_integer, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(_largest_integer, value), default=0)
    return 0


class Leaf(NamedTuple):
    """One option by itself, those of a group among them.

    Attributes:
        name: as a flag and as a keyword call it.
        path: of keys, as YAML has it: `("recover", "epochs")`.
        field: its field.
    """

    name: str
    path: tuple[str, ...]
    field: FieldInfo


class Options(BaseModel):
    """Base of all options models: unknown keys are errors, values never change after validation.

    Attributes:
        renamed: key that was an option once -> the option to give in its place, for the error that says so.
        refused: key that is an option of other techniques -> why it is none here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def renamed_keys(cls) -> dict[str, str]:
        """`renamed` of this model and its bases, without what is an option here."""
        found = {key: new for base in reversed(cls.__mro__) for key, new in vars(base).get("renamed", {}).items()}
        return {key: new for key, new in found.items() if key not in cls.model_fields}

    @classmethod
    def groups(cls) -> dict[str, type[OptionGroup]]:
        """The options that are groups of options: name -> the group's model."""
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, OptionGroup)}

    @classmethod
    def leaves(cls) -> Iterator[Leaf]:
        """Every option by itself; that of a group goes by its own name where that is free, else by the group's, too."""
        groups = cls.groups()
        for name, field in cls.model_fields.items():
            if name not in groups:
                yield Leaf(name, (name,), field)
                continue
            inner = dict(groups[name].model_fields)
            short = groups[name].short
            yield Leaf(name, (name, short), inner.pop(short))
            for key, one in inner.items():
                yield Leaf(f"{name}_{key}" if key in cls.model_fields else key, (name, key), one)

    @classmethod
    def _gathered(cls, values: Any) -> Any:
        """Options of a group that stand beside it, put into it: `recover: kd, epochs: 2`."""
        groups = cls.groups()
        if not groups or not isinstance(values, Mapping):
            return values
        beside = {leaf.name: leaf.path for leaf in cls.leaves() if leaf.name not in cls.model_fields}
        gathered = {key: value for key, value in values.items() if key not in beside}
        for key in values:
            if key in beside:
                group, name = beside[key]
                inner = groups[group].mapping(gathered.get(group, {}))
                if name in inner:
                    raise ValueError(f"{key} is given twice, by itself and as {group}.{name}; give one of them")
                gathered[group] = {**inner, name: values[key]}
        return gathered

    @model_validator(mode="wrap")
    @classmethod
    def _says_what_became_of_keys(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(cls._gathered(values))
        except ValidationError as error:
            lines = [cls._explained(line) for line in error.errors()]
            if all(isinstance(line["type"], str) for line in lines):
                raise
            raise ValidationError.from_exception_data(error.title, lines) from None

    @classmethod
    def _explained(cls, error: Any) -> InitErrorDetails:
        """A line of a validation error; that of a key that is known from elsewhere says what to do about it."""
        key = str(error["loc"][0]) if error["loc"] else ""
        kind: Any = error["type"]
        if kind == "known_key":  # said by a group's options
            kind = PydanticCustomError("known_key", "{said}", {"said": error["msg"]})
        if kind == "extra_forbidden" and key in cls.renamed_keys():
            kind = PydanticCustomError("known_key", "{said}", {"said": f"{key} is now {cls.renamed_keys()[key]}"})
        elif kind == "extra_forbidden" and key in cls.refused:
            kind = PydanticCustomError("known_key", "{said}", {"said": f"{key} {cls.refused[key]}"})
        return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=error.get("ctx", {}))

    @field_validator("*")
    @classmethod
    def _numbers_fit_64_bits(cls, value: Any) -> Any:
        if _largest_integer(value) >= _TOO_LARGE:
            raise ValueError("a whole number must lie below 2**63")
        return value

    def prints_only(self) -> bool:
        """Whether a step with these options only prints something about the model, so that nothing is written."""
        return False

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each, e.g. `training needs data`."""
        return []

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers, by name and kind, after a step with these options."""
        return False

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        inner = (getattr(self, name).packages() for name in self.groups())
        return {module: extra for one in inner for module, extra in one.items()}

    def named_rows(self) -> Iterator[tuple[str, Registry[Any], str]]:
        """(option, registry, name) of each row of a registry that these options name, defaults included."""
        for option_name, field in type(self).model_fields.items():
            if isinstance(inner := getattr(self, option_name), OptionGroup):
                yield from inner.named_rows()
            registry = registry_of(field.annotation, field.metadata)
            if registry is None:
                continue
            value = getattr(self, option_name)
            if isinstance(value, dict) and not _names_keys(field.annotation):
                value = list(value.values())
            names = value if isinstance(value, list | tuple | dict) else [value]
            yield from ((option_name, registry, name) for name in names if isinstance(name, str))

    def own_rounds(self) -> int | None:
        """Rounds by which a step measures its latency in its own way; None where the run measures it."""
        return None

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        """Further models that these options name: model string and what goes with it, as `load_model` takes it."""
        return []

    def refuse_unread(self, readers: Mapping[str, Sequence[str]], by: str) -> None:
        """Refuse given options that nothing reads with the value that another option has.

        Args:
            readers: option -> the values with which it is read.
            by: the other option.
        Raises:
            ValueError: naming the first such option, and what it is for.
        """
        value = getattr(self, by)
        for name, values in readers.items():
            if name in self.model_fields_set and value not in values:
                raise ValueError(f"{name} would be ignored: {by} is {value!r}; it is for {', '.join(values)}")


class OptionGroup(Options):
    """Options under one key of others, as in `recover: {mode: kd, epochs: 2}`.

    Attributes:
        short: the option that a lone value in the group's place gives: `recover: kd`.
    """

    short: ClassVar[str]

    @classmethod
    def mapping(cls, given: Any) -> dict[str, Any]:
        """The group as it was given, as a mapping."""
        if isinstance(given, OptionGroup):
            return given.model_dump(exclude_unset=True)
        return dict(given) if isinstance(given, Mapping) else {cls.short: given}

    @model_validator(mode="before")
    @classmethod
    def _reads_the_short_form(cls, given: Any) -> Any:
        return given if isinstance(given, OptionGroup) else cls.mapping(given)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        whole = handler.resolve_ref_schema(made)
        mapping = dict(whole)
        whole.clear()
        short = {key: value for key, value in mapping["properties"][cls.short].items() if key != "default"}
        whole.update({"anyOf": [short, mapping], "title": mapping.pop("title")})
        return made


def with_guards(model: type[Model]) -> type[Model]:
    """Add a field `max_NAME` for each cost."""
    help = "largest allowed {noun}: an amount, e.g. {example}, or a share of the original model's, e.g. 50%"
    own = "largest allowed amount of a cost of your own: file.py:NAME=AMOUNT"
    fields = amount_fields(names(), guard_of, help, kept=False, section="Guards")
    return with_fields(model, {**fields, "max": own_amounts_field("max", own, kept=False, section="Guards")})


@with_guards
class GuardOptions(Options):
    """What a step must hold; a missed guard exits 3 and keeps the last good artifact."""

    max_drop: Annotated[float | str | None, BeforeValidator(partial(read_drop, "max_drop", zero="allowed"))] = option(
        None,
        "largest allowed loss of the metric, e.g. 0.01 or 1% (against the original; of a share points, else "
        "percent of the original's value)",
        section="Guards",
    )
    min_speedup: float | None = option(
        None, "smallest allowed measured speed-up against the original model, e.g. 1.5", section="Guards", gt=0
    )

    def limits(self) -> dict[str, Amount]:
        """The guarded costs: name -> largest amount."""
        return amounts_of(self, guard_of, "max")

    def given_limits(self) -> dict[str, float | str]:
        """The same as they were given."""
        return given_amounts(self, guard_of, "max")

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return ["max_drop needs data"] if self.max_drop is not None else []
