"""Reading YAML with the line of every key kept, so that an error can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..core.errors import InputError

#: path of keys and list positions -> line, counted from 1
Lines = dict[tuple[Any, ...], int]


def read_yaml(path: str | Path) -> tuple[Any, Lines]:
    """Content and lines of a YAML file, safe-loaded.

    Raises:
        InputError: if the file is missing, is not YAML, or has a key twice; with the line.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise InputError(f"recipe {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {str(path)!r} cannot be read: {error}") from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: Lines = {}
        if node is not None:
            _collect(node, (), lines, path)
        return (loader.construct_document(node) if node is not None else None), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"recipe {str(path)!r}{where}: {getattr(error, 'problem', None) or error}") from error
    finally:
        loader.dispose()


def _collect(node: yaml.Node, path: tuple[Any, ...], lines: Lines, file: Path) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            if here in lines:
                raise InputError(
                    f"recipe {str(file)!r}, line {key.start_mark.line + 1}: key {key.value!r} stands twice"
                )
            lines[here] = key.start_mark.line + 1
            _collect(value, here, lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(value, (*path, index), lines, file)


def line_of(path: tuple[Any, ...], lines: Lines) -> int | None:
    """The line of a path, or of its nearest parent that has one."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def set_value(content: Any, assignment: str) -> None:
    """Apply `a.0.b=VALUE` (VALUE is YAML) to a loaded recipe, in place; missing mappings are made.

    Raises:
        InputError: if the assignment has no '=' or its path leads nowhere.
    """
    dotted, equals, text = assignment.partition("=")
    if not equals or not dotted.strip():
        raise InputError(f"--set {assignment!r}: write KEY=VALUE, e.g. --set steps.0.prune.ratio=0.6")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {assignment!r}: the value is not YAML: {str(error).splitlines()[0]}") from error
    *parents, last = dotted.strip().split(".")
    here = content
    for key in parents:
        here = _descend(here, key, assignment)
    if isinstance(here, list):
        here[_index(here, last, assignment)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise InputError(f"--set {assignment!r}: {'.'.join(parents)} is not a mapping")


def _descend(here: Any, key: str, assignment: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, key, assignment)]
    if not isinstance(here, dict):
        raise InputError(f"--set {assignment!r}: nothing stands under {key!r}")
    if here.get(key) is None:
        here[key] = {}
    return here[key]


def _index(here: list, key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(here):
        raise InputError(f"--set {assignment!r}: {key!r} is not a position in a list of {len(here)}")
    return int(key)
