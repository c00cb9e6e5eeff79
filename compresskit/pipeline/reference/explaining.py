"""What an option, a row of a table or a term of the glossary means, looked up by its name. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from ...core.errors import InputError
from ...core.options import registry_of
from ...core.registry import Registry
from ...data.tables import READERS
from ...model.tables import BUILTINS
from ..recipe import RecipeOptions
from ..techniques import STEPS
from .docs import default_of, values_of
from .glossary import TERMS

_EVERY = "every command"  # where the options of a recipe hold
#: option that takes a string of parts -> the registry whose rows may begin it, how it is typed, what goes before
_BEGUN: dict[str, tuple[Registry[Any], str, str]] = {
    "data": (READERS, "--data", ""),
    "model": (BUILTINS, "MODEL", "builtin:"),
}


def explain_term(term: str, further: Iterable[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Everything that has a name: options, rows of tables, and terms.

    Args:
        term: as a flag, a YAML key, a row's name or words: `--target-macs`, `target_macs`, `taylor`, `perplexity`.
        further: records of other things that have a name, as they are returned.
    Returns:
        One record each: {kind, name, meaning, ...}; an option has commands, section, values, default and rows, a
        row its table, the options that take it, needs and source; a command its example, a flag its commands.
    Raises:
        InputError: if nothing has that name, naming the nearest.
    """
    further = list(further)
    own = [one for one in further if one["name"] == _key(term)]
    found = [*own, *_options(_key(term)), *_rows(term), *_terms(term)] or list(_terms(term, by_word=True))
    if not found:
        names = [*explained_names(), *(one["name"] for one in further)]
        close = get_close_matches(term, names, n=1, cutoff=0.5)
        raise InputError(
            f"nothing is called {term!r}; "
            + (f"did you mean {close[0]!r}?" if close else "see --help-all of a command, or docs/glossary.md for terms")
        )
    return found


def _key(term: str) -> str:
    return term.strip().removeprefix("--").replace("-", "_").replace(" ", "_").lower()


def _models() -> Iterator[tuple[str, type[Any]]]:
    yield _EVERY, RecipeOptions
    for name, technique in STEPS.items():
        yield name, technique.options_model()


def _options(key: str) -> list[dict[str, Any]]:
    """An option's records; commands where it says the same share one."""
    found: list[dict[str, Any]] = []
    for command, model in _models():
        leaf = next((leaf for leaf in model.leaves() if leaf.name == key), None)
        if leaf is None:
            continue
        field = leaf.field
        registry, prefix = registry_of(field.annotation, field.metadata), ""
        if registry is None and key in _BEGUN:
            registry, _, prefix = _BEGUN[key]
        rows = {prefix + name: row.described() for name, row in registry.rows().items()} if registry is not None else {}
        record = {
            "kind": "option", "name": key, "flag": "--" + key.replace("_", "-"), "meaning": field.description,
            "section": (field.json_schema_extra or {}).get("section", "Options"), "values": values_of(model, leaf),
            "key": ".".join(leaf.path), "default": default_of(field), "rows": rows,
        }  # fmt: skip
        same = next((one for one in found if all(one[name] == value for name, value in record.items())), None)
        if same is None:
            found.append({**record, "commands": [command]})
        else:
            same["commands"].append(command)
    return found


def _tables() -> dict[int, tuple[Registry[Any], list[str]]]:
    """Each registry that an option names, with the options: `prune --criterion`."""
    found: dict[int, tuple[Registry[Any], list[str]]] = {}
    for command, model in _models():
        for name, _, field in model.leaves():
            registry = registry_of(field.annotation, field.metadata)
            if registry is not None:
                flag = "--" + name.replace("_", "-")
                said = flag if command == _EVERY else f"{command} {flag}"
                found.setdefault(id(registry), (registry, []))[1].append(said)
    for registry, option, _ in _BEGUN.values():
        found.setdefault(id(registry), (registry, [option]))
    return found


def _rows(name: str) -> Iterator[dict[str, Any]]:
    for registry, options in _tables().values():
        row = registry.rows().get(name)
        if row is not None:
            yield {
                "kind": registry.kind, "name": name, "meaning": row.help, "source": row.source, "needs": row.needs,
                "options": options,
            }  # fmt: skip


def _terms(term: str, *, by_word: bool = False) -> Iterator[dict[str, Any]]:
    wanted = term.strip().lower()
    for name, meaning in TERMS.items():
        parts = [part.strip(" )").lower() for part in name.replace("(", ",").split(",")]
        if wanted in (name.lower(), *(name.lower().split() if by_word else parts)):
            yield {"kind": "term", "name": name, "meaning": meaning}


def explained_names() -> list[str]:
    """Names of options, rows and terms."""
    options = {leaf.name for _, model in _models() for leaf in model.leaves()}
    rows = {name for registry, _ in _tables().values() for name in registry.rows()}
    return sorted(options | rows | set(TERMS))


def explained(record: dict[str, Any]) -> str:
    """A record as text of a few lines."""
    if record["kind"] == "option":
        lines = [f"{record['flag']} ({', '.join(record['commands'])}; section {record['section']})"]
        lines += [f"  {record['meaning']}", f"  values: {record['values'].replace('`', '')}"]
        lines += [f"  default: {_said(record['default'])}; in YAML: {record['key']}"]
        lines += [f"    {name}: {meaning}" for name, meaning in record["rows"].items()]
        return "\n".join(lines)
    if record["kind"] == "term":
        return f"{record['name']}: {record['meaning']}"
    if record["kind"] == "command":
        return f"compresskit {record['name']}: {record['meaning']}\n  e.g. {record['example']}"
    if record["kind"] == "flag":
        return f"{record['flag']} ({', '.join(record['commands'])})\n  {record['meaning']}"
    lines = [f"{record['name']}, a {record['kind']}: {record['meaning']}"]
    lines += [f"  needs {record['needs']}"] if record["needs"] else []
    lines += [f"  source: {record['source']}"] if record["source"] else []
    return "\n".join([*lines, f"  given by {', '.join(record['options'])}"])


def _said(default: Any) -> str:
    return "none" if default in (None, [], {}, "") else json.dumps(default)
