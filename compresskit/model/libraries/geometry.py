"""What a model's configuration decides about its shapes, found out by asking the library's own builder.

Every whole number of a configuration is changed in turn and the model built again on the meta device; the sizes that
change with it are the ones that it decides. From that follows which widths can only change together, and which
configuration builds a model that was cut. No family is known by name.

Sizes are read off a module as *facts*: the size of every dimension of every tensor, every integer attribute, the
length of every list of layers.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from ...core.errors import InputError
from .hub import hf_architecture

#: a place in a configuration: keys, and positions in lists
Field = tuple[str | int, ...]
#: settings that shape nothing but are numbers
_NO_FIELDS = re.compile(r"(_token_id|_token_index|^id2label|^label2id|^architectures|^out_indices|^torch_dtype)$")
#: optional numbers that many families read without declaring them
_UNDECLARED = ("head_dim",)
#: attributes that say at which place of its list a layer stands
PLACES = ("layer_idx", "layer_id", "layer_index", "layer_number")
_MODES = ("training", "gradient_checkpointing")  # attributes that say how a module is used, not what it is
_OF_LAST_STAGE = ("stage_names", "out_features", "out_indices")
_LARGEST_PROBE = 1 << 24


class Fact(NamedTuple):
    """One number that a module shows: of a tensor's dimension, an attribute (and entry of it), or a list's length."""

    kind: str  # "size", "attribute", "length", or "constant": an attribute that is no whole number
    path: str  # the tensor's or the module's
    name: str = ""  # the attribute's
    place: int = 0  # the dimension, or the entry of an attribute that is a list


Facts = dict[Fact, Any]  # whole numbers, but for constants


def facts_of(root: nn.Module) -> Facts:
    """The facts of a module; weights that a parametrization computes count as plain ones."""
    found: Facts = {}
    for path, module in root.named_modules():
        if ".parametrizations" in f".{path}":
            continue
        for name, tensor in _tensors(module):
            found |= {
                Fact("size", f"{path}.{name}" if path else name, "", dim): int(size)
                for dim, size in enumerate(tensor.shape)
            }
        for name, value in vars(module).items():
            entries = value if isinstance(value, list | tuple) else [value]
            if name in PLACES or name in _MODES or name.startswith("_"):
                continue
            if all(type(entry) in (int, bool) for entry in entries):
                found |= {Fact("attribute", path, name, place): int(entry) for place, entry in enumerate(entries)}
            if type(value) is float:
                found[Fact("constant", path, name)] = value
        if isinstance(module, nn.ModuleList | nn.Sequential):
            found[Fact("length", path)] = len(module)
    return found


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    computed = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    for slots in (module._parameters, {n: b for n, b in module._buffers.items() if n not in _hidden(module)}):
        yield from ((name, tensor) for name, tensor in slots.items() if tensor is not None)
    for name in computed:
        yield str(name), getattr(module, str(name))


def _hidden(module: nn.Module) -> set[str]:
    return module._non_persistent_buffers_set


def settings_of(config: Any) -> dict[str, Any]:
    """A transformers configuration as plain data; that a backbone's output is its last stage is left out."""
    found = json.loads(config.to_json_string(use_diff=False))
    stages = found.get("stage_names")
    if stages and found.get("out_features") == stages[-1:]:
        found = {key: value for key, value in found.items() if key not in _OF_LAST_STAGE}
    return found


def pattern_of(name: str) -> str:
    """A dotted name with its numbers left open: the same for all layers of a list."""
    return re.sub(r"\d+", "*", name)


class NotExpressed(InputError):
    """No configuration builds a model of these shapes."""


class Geometry:
    """What the configuration of a transformers model decides.

    Args:
        module: a transformers model that its configuration builds, with the shapes that it has now.
    Raises:
        NotExpressed: if its configuration builds other shapes, or nothing that can be compared.
    """

    def __init__(self, module: nn.Module):
        self.class_name = original_class(module)
        self.settings = _with_open_ratios(self.class_name, _with_optional(self.class_name, module.config))
        self.facts = self.build(self.settings)
        difference = unlike(self.facts, facts_of(module))
        if difference:
            raise NotExpressed(f"its configuration does not build it: {difference}")

    def build(self, settings: Mapping[str, Any]) -> Facts:
        """The facts of the model that settings build.

        Raises:
            InputError: if they build none.
        """
        return facts_of(built(self.class_name, settings))

    @cached_property
    def fields(self) -> dict[Field, dict[Fact, float]]:
        """Numbers of the configuration, each with the facts that it decides and how much they grow with it."""
        found = {}
        for place, value in numbers_in(self.settings):
            if type(value) is int and _names_ratio(place):
                continue  # other widths must stay its multiples: they are as if it were fixed
            slopes = self._slopes(place, value)
            if slopes:
                found[place] = slopes
        return found

    def _slopes(self, place: Field, value: float) -> dict[Fact, float]:
        # twice first: it keeps what was divisible so
        for other in (2 * value, value + 1, value // 2, value - 1):
            if other <= 0 or other == value or other > _LARGEST_PROBE:
                continue
            facts = self._changed(place, int(value), other)
            if facts is None:
                continue
            return {
                fact: (facts[fact] - self.facts[fact]) / (other - value)
                for fact in self.facts.keys() & facts.keys()
                if facts[fact] != self.facts[fact]
            }
        return {}

    def counted_lists(self) -> list[str]:
        """Paths of the lists of layers whose length a setting decides."""
        return [fact.path for fact in self.deciders if fact.kind == "length"]

    def _changed(self, place: Field, value: int, other: float) -> Facts | None:
        """The facts with another value at a place, with lists that have as many entries as layers following it."""
        lists = {
            (*place[:-1], key): [*entries, *[entries[-1]] * value][: int(other)]
            for key, entries in at(self.settings, place[:-1]).items()
            if isinstance(entries, list) and len(entries) == value
        } if type(place[-1]) is str else {}  # fmt: skip
        for following in ({}, lists):
            try:
                return self.build(replaced(self.settings, {**following, place: other}))
            except InputError:
                continue
        return None

    @cached_property
    def deciders(self) -> dict[Fact, frozenset[Field]]:
        """The fields that decide each fact; facts that none decides are absent."""
        found: dict[Fact, set[Field]] = {}
        for place, slopes in self.fields.items():
            for fact in slopes:
                found.setdefault(fact, set()).add(place)
        return {fact: frozenset(places) for fact, places in found.items()}


def original_class(module: nn.Module) -> str:
    """The name of the transformers class that a model is of."""
    return type(module).__name__


def built(class_name: str, settings: Mapping[str, Any]) -> nn.Module:
    """A transformers model on the meta device.

    Raises:
        InputError: if the settings build none.
    """
    record = {"kind": "hf", "name": class_name, "class": class_name, "config": dict(settings)}
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of copies that do nothing on meta
        return hf_architecture(record)


def unlike(built_facts: Facts, wanted: Facts) -> str:
    """The first fact that differs, in words; "" where none does. Facts of one side alone count where they are sizes."""
    for fact in [*wanted, *(fact for fact in built_facts if fact not in wanted)]:
        mine, other = wanted.get(fact), built_facts.get(fact)
        if mine == other or fact.kind == "constant" or (fact.kind != "size" and (mine is None or other is None)):
            continue
        where = fact.path + (f".{fact.name}" if fact.name else "")
        what = {"size": f"dimension {fact.place} of {where}", "attribute": where, "length": f"layers of {where}"}
        return f"{what[fact.kind]} is {_shown(mine)} in the model, and {_shown(other)} as the configuration builds it"
    return ""


def _shown(number: int | None) -> str:
    return "absent" if number is None else str(number)


def numbers_in(settings: Any, place: Field = ()) -> Iterator[tuple[Field, float]]:
    """Positive numbers of a configuration with their places, those of nested configurations and lists too."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if not _NO_FIELDS.search(str(key)):
                yield from numbers_in(value, (*place, key))
    elif isinstance(settings, list) and len(settings) <= 64:
        for index, value in enumerate(settings):
            yield from numbers_in(value, (*place, index))
    elif isinstance(settings, int | float) and (type(settings) is int and settings > 0 or _is_ratio(settings, place)):
        yield place, settings


def _is_ratio(value: Any, place: Field) -> bool:
    return type(value) is float and value > 0 and _names_ratio(place)


def _names_ratio(place: Field) -> bool:
    return any("mlp_ratio" in str(key) for key in place)


def replaced(settings: Mapping[str, Any], values: Mapping[Field, Any]) -> dict[str, Any]:
    """Settings with other values at some places."""
    copied = json.loads(json.dumps(settings))
    for place, value in values.items():
        owner = copied
        for key in place[:-1]:
            owner = owner[key]
        owner[place[-1]] = value
    return copied


def at(settings: Any, place: Field) -> Any:
    """The value at a place; None where there is none."""
    for key in place:
        try:
            settings = settings[key]
        except (KeyError, IndexError, TypeError):
            return None
    return settings


def _configurations(settings: Mapping[str, Any], place: Field = ()) -> Iterator[Field]:
    yield place
    for key, value in settings.items():
        if isinstance(value, Mapping) and "model_type" in value:
            yield from _configurations(value, (*place, key))


def _with_open_ratios(class_name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which whole ratios of widths are fractions, where the library takes them; others decide nothing."""
    for place, value in numbers_in(settings):
        if type(value) is int and _names_ratio(place):
            try:
                built(class_name, replaced(settings, {place: value + 0.5}))
            except InputError:
                continue
            settings = replaced(settings, {place: float(value)})
    return settings


def _with_optional(class_name: str, config: Any) -> dict[str, Any]:
    """Settings in which optional numbers (a head's width, an inner width) stand as the numbers that they stand for.

    What is left open follows other settings, and those could then not change by themselves.
    """
    settings = settings_of(config)
    facts = facts_of(built(class_name, settings))
    for place in list(_configurations(settings)):
        own = at(settings, place)
        owner = reduce(getattr, map(str, place), config)
        empty = [key for key, value in own.items() if value is None and not _NO_FIELDS.search(key)]
        for key in dict.fromkeys([*empty, *(name for name in _UNDECLARED if getattr(owner, name, None) is None)]):
            value = _stands_for(class_name, settings, (*place, key), facts)
            if value is not None:
                settings = replaced(settings, {(*place, key): value})
    return settings


def _stands_for(class_name: str, settings: dict[str, Any], place: Field, facts: Facts) -> int | None:
    """The number that an open setting stands for; None where it decides no width."""

    def with_value(value: int) -> Facts:
        try:
            return facts_of(built(class_name, replaced(settings, {place: value})))
        except InputError:
            return {}

    for odd in (24, 40):  # even, as widths of heads must be
        other = with_value(odd)
        changed = [fact for fact in facts.keys() & other.keys() if facts[fact] != other[fact] and fact.kind == "size"]
        if changed:
            break
    else:
        return None
    sizes = sorted({value for value in facts.values() if value > 1}, reverse=True)
    ratio = {facts[fact] * odd // other[fact] for fact in changed if facts[fact] * odd % max(other[fact], 1) == 0}
    for value in [*sorted(ratio), *(size for size in sizes if size not in ratio)][:16]:
        if not unlike(with_value(value), facts):
            return value
    return None
