"""The configuration that builds a model as it now is: solved from the facts that each setting decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...core.errors import InputError
from .geometry import Fact, Facts, Field, Geometry, NotExpressed, at, pattern_of, replaced, unlike


def settings_for(
    geometry: Geometry, wanted: Facts, kept_layers: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Any]:
    """Settings that build a model with given facts.

    Args:
        geometry: of the model before it was changed.
        wanted: facts of the model as it now is, its layers renumbered.
        kept_layers: path of a list of layers -> which of its layers stayed, where some went.
    Raises:
        NotExpressed: naming the layers that no setting describes together.
    """
    reason = ""
    for settings in _with_fewer_layers(geometry, kept_layers or {}):
        try:
            settings = _with_widths(geometry, settings, wanted)
            found = unlike(geometry.build(settings), wanted)
        except InputError as error:
            found = str(error)
        if not found:
            return settings
        reason = reason or found
    raise NotExpressed(reason or "no setting says how many layers there are")


def without_layers(facts: Facts, kept_layers: Mapping[str, Sequence[int]]) -> Facts:
    """Facts of a model some of whose layers go, those that stay numbered anew."""
    for path, kept in kept_layers.items():
        places = {str(old): str(new) for new, old in enumerate(kept)}
        renumbered: Facts = {}
        for fact, value in facts.items():
            inner = fact.path.removeprefix(f"{path}.") if fact.path.startswith(f"{path}.") else None
            if inner is None:
                renumbered[fact] = len(kept) if fact == Fact("length", path) else value
                continue
            index, dot, rest = inner.partition(".")
            if index in places:
                renumbered[fact._replace(path=f"{path}.{places[index]}{dot}{rest}")] = value
        facts = renumbered
    return facts


def _with_fewer_layers(geometry: Geometry, kept_layers: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Any]]:
    """Settings with fewer layers; lists with an entry a layer lose the same entries, as far as they are such lists."""
    values: dict[Field, Any] = {}
    lists: dict[Field, list[Any]] = {}
    marks: dict[Field, list[Any]] = {}
    for path, kept in kept_layers.items():
        length = Fact("length", path)
        place = next((field for field, slopes in geometry.fields.items() if length in slopes), None)
        if place is None:
            return
        values[place] = at(geometry.settings, place) + round(
            (len(kept) - geometry.facts[length]) / geometry.fields[place][length]
        )
        if type(place[-1]) is int:
            continue
        for key, entries in at(geometry.settings, place[:-1]).items():
            if isinstance(entries, list) and len(entries) == geometry.facts[length]:
                lists[(*place[:-1], key)] = [entries[index] for index in kept]
                if all(isinstance(entry, str) or entry in (0, 1) for entry in entries):
                    marks[(*place[:-1], key)] = lists[(*place[:-1], key)]
    for filtered in (marks, {}, lists):
        yield replaced(geometry.settings, {**values, **filtered})


def _with_widths(geometry: Geometry, settings: dict[str, Any], wanted: Facts) -> dict[str, Any]:
    """Settings whose numbers are those that the wanted facts imply, as far as every fact agrees."""
    known: set[Field] = set()
    waiting = dict(geometry.fields)
    while waiting:
        solved: dict[Field, Any] = {}
        for place in waiting:
            facts = [
                fact
                for fact, deciders in geometry.deciders.items()
                if fact.kind != "constant" and fact in wanted and deciders - known == {place} and place in deciders
            ]
            if not facts:
                continue
            value = _value(geometry, settings, place, facts, wanted)
            if value is not None:
                solved[place] = value
        if not solved:
            break
        settings = replaced(settings, solved)
        known |= solved.keys()
        waiting = {place: slopes for place, slopes in waiting.items() if place not in known}
    return settings


def _value(
    geometry: Geometry, settings: dict[str, Any], place: Field, facts: list[Fact], wanted: Facts
) -> float | None:
    """The value of one setting that gives its facts, the others being as they are; None where it stays."""
    now = at(settings, place)
    facts = [fact for fact in facts if fact.kind == "size"] or facts
    if all(geometry.deciders[fact] == {place} for fact in facts):
        slopes, before = geometry.fields[place], at(geometry.settings, place)
        implied = {fact: before + (wanted[fact] - geometry.facts[fact]) / slopes[fact] for fact in facts}
        _check_agreement(geometry, place, implied, wanted)
        return _like(next(iter(implied.values())), now)
    return _tried(geometry, settings, place, facts, wanted)


def _like(value: float, now: float) -> float:
    """A value as the kind of number that stands there."""
    whole = round(value)
    return whole if type(now) is int and math.isclose(value, whole, abs_tol=1e-9) else value


def _tried(
    geometry: Geometry, settings: dict[str, Any], place: Field, facts: list[Fact], wanted: Facts
) -> float | None:
    """The value of a setting with which a built model has the facts, by way of others."""
    now = at(settings, place)
    built: dict[float, Facts] = {}
    waiting = [now, 2 * now, *([max(now // 2, 1), now + 1, 1] if type(now) is int else [now / 2])]
    guessed: set[float] = set()
    while waiting:
        value = waiting.pop(0)
        if value in built:
            continue
        try:
            built[value] = geometry.build(replaced(settings, {place: value}))
        except InputError:
            continue
        if all(built[value].get(fact) == wanted[fact] for fact in facts):
            return value
        if value not in guessed:
            guesses = {_like(guess, now) for fact in facts for guess in _guesses(built, fact, wanted[fact])}
            if type(now) is float:  # builders cut the product of a width and a ratio down to a whole number
                guesses |= {guess * (1 + 1e-12) for guess in guesses}
            new = sorted(guess for guess in guesses if guess > 0 and type(guess) is type(now))
            guessed |= set(new)
            waiting = [*new[:4], *waiting]
    return None


def _guesses(built: Mapping[float, Facts], fact: Fact, wanted: int) -> Iterator[float]:
    """Values of a setting at which a fact may take its value: in proportion, inverse, and on a line."""
    points = [(value, facts[fact]) for value, facts in built.items() if facts.get(fact)]
    for value, found in points[-1:]:
        yield value * wanted / found
        if wanted:
            yield value * found / wanted
    if len(points) > 1 and points[-1][1] != points[0][1]:
        (first, low), (second, high) = points[0], points[-1]
        yield first + (wanted - low) * (second - first) / (high - low)


def _check_agreement(geometry: Geometry, place: Field, implied: Mapping[Fact, float], wanted: Facts) -> None:
    """Raises NotExpressed where layers want different values of one setting."""
    first: dict[str, Fact] = {}
    reference = next(iter(implied))
    for fact, value in implied.items():
        twin = first.setdefault(f"{pattern_of(fact.path)}:{fact.place}", fact)
        other = twin if implied[twin] != value else reference
        if not math.isclose(implied[other], value, abs_tol=1e-9):
            name = ".".join(map(str, place))
            raise NotExpressed(
                f"layers have different widths ({_named(other)} is {wanted[other]}, {_named(fact)} is {wanted[fact]}), "
                f"and the configuration has one {name} for them"
            )


def _named(fact: Fact) -> str:
    return f"dimension {fact.place} of {fact.path}" if fact.kind == "size" else f"{fact.path}.{fact.name}"
