"""Parsing YAML that a stranger may have written: small, shallow, plain data with string keys, or one line that says no.

Nodes are counted while they are composed, before anything is constructed from them, so that aliases of aliases,
brackets in brackets and documents of a gigabyte are refused in a moment.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import yaml

from ...core.errors import InputError, first_line

#: path of keys and list positions -> line, counted from 1
Lines = dict[tuple[Any, ...], int]

LONGEST_TEXT = 1 << 18  # characters
MOST_NODES = 50_000  # scalars, lists and mappings, every alias counted as what it stands for
DEEPEST = 64  # lists and mappings inside each other
_LONGEST_SCALAR = 1 << 16
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map")  # what JSON can hold as well, as artifacts must
_LONGEST_REASON = 200  # characters of what PyYAML says
_LONGEST_NUMBER = 400  # digits; the largest float has 309
#: what PyYAML's constructors raise besides YAMLError: `!!bool x`, `!!int x`, `0x_`
_CONSTRUCTION_ERRORS = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)


def parse_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """Content and lines of one YAML document, safe-loaded.

    Args:
        text: the document.
        where: what errors call it, e.g. "recipe 'r.yaml'".
    Raises:
        InputError: if the text is not YAML, is too large or too deep, holds more than one document, refers to itself,
            or has a key twice or one that is not a string; with the line.
    """
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{where} is longer than {LONGEST_TEXT:,} characters, which no recipe is")
    try:
        loader = _BoundedLoader(text, where)
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise InputError(f"{where} is not YAML: {_reason(error)}") from error
    try:
        node = loader.get_single_node()
        lines: Lines = {}
        if node is None:
            return None, lines
        _collect(node, (), lines, where)
        _check_scalars(loader, node, where)
        return loader.construct_document(node), lines
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{where}{_line(getattr(error, 'problem_mark', None))}: {_reason(error)}") from error
    except _CONSTRUCTION_ERRORS as error:
        reason = first_line(error)[:_LONGEST_REASON]
        raise InputError(f"{where}: a value is not what its tag or form says ({reason})") from error
    finally:
        loader.dispose()


def parse_value(text: str, where: str) -> Any:
    """The value of a KEY=VALUE argument, read as YAML; text that is no YAML is an InputError."""
    return parse_yaml(text, where)[0]


def _reason(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None)
    if problem and "'\\t'" in problem:
        return "a tab, which YAML takes in no indentation; indent with spaces"
    return problem or first_line(error)[:_LONGEST_REASON]


class _Mark(Protocol):
    """Where a value stands; a yaml in C has a class of its own for it."""

    @property
    def line(self) -> int: ...


def _line(mark: _Mark | None) -> str:
    return f", line {mark.line + 1}" if mark else ""


class _BoundedLoader(yaml.SafeLoader):
    """Composes a document while counting its nodes, aliases as what they name, and its depth."""

    def __init__(self, text: str, where: str):
        self._where = where
        self._nodes = 0
        self._sizes: dict[str, int] = {}  # anchor -> nodes that it stands for
        self._open: list[str | None] = []  # anchors of the lists and mappings that are being composed
        super().__init__(text)

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                self._refuse(event, f"*{anchor} stands inside of what it names")
            self._count(event, self._sizes.get(anchor or "", 1))
            return self._composed(parent, index)
        before = self._nodes
        self._count(event, 1)
        self._open.append(anchor)
        if len(self._open) > DEEPEST:
            self._refuse(event, f"nested more than {DEEPEST} deep")
        node = self._composed(parent, index)
        self._open.pop()
        if anchor:
            self._sizes[anchor] = self._nodes - before
        return node

    def _composed(self, parent: Any, index: Any) -> yaml.Node:
        node = super().compose_node(parent, index)
        if node is None:
            raise InputError(f"{self._where}: a value is missing")
        return node

    def _count(self, event: yaml.Event, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            self._refuse(event, f"more than {MOST_NODES:,} values, aliases counted as what they name")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_SCALAR:
            self._refuse(event, f"a value of {len(event.value):,} characters")

    def _refuse(self, event: yaml.Event, reason: str) -> None:
        raise InputError(f"{self._where}{_line(event.start_mark)}: {reason}")


def _collect(node: yaml.Node, path: tuple[Any, ...], lines: Lines, where: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = _line(key.start_mark)
            if key.tag not in (_PREFIX + "str", _PREFIX + "merge"):
                shown = f" {key.value!r}" if isinstance(key, yaml.ScalarNode) else ""
                raise InputError(f"{where}{line}: key{shown} is not a string; put it in quotes")
            here = (*path, key.value)
            if here in lines:
                raise InputError(f"{where}{line}: duplicate key {key.value!r}; remove one of them")
            lines[here] = key.start_mark.line + 1
            _collect(value, here, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(value, (*path, index), lines, where)


def _check_scalars(loader: yaml.SafeLoader, root: yaml.Node, where: str) -> None:
    """Refuse values that JSON cannot hold: dates, bytes, sets, infinity, NaN, and numbers of thousands of digits."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        kind = node.tag.removeprefix(_PREFIX)
        place = f"{where}{_line(node.start_mark)}"
        if kind not in _PLAIN:
            raise InputError(f"{place}: a value of kind {kind!r}; put it in quotes to have it as text")
        if isinstance(node, yaml.MappingNode):
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif kind in ("int", "float"):
            if len(node.value) > _LONGEST_NUMBER:
                raise InputError(f"{place}: a number of {len(node.value):,} digits")
            if not isinstance(node, yaml.ScalarNode) or kind == "int":
                continue
            if not math.isfinite(loader.construct_yaml_float(node)):
                raise InputError(f"{place}: {node.value!r} is not a finite number")
