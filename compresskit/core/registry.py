"""Registries: one for each kind of choice. A row is a name, what it stands for, one line of help and its source.

Rows come from four places, and all of them work wherever a row's name is taken (flags, YAML, Python):

- the registry's own rows, strings that are imported when they are used;
- `package.module:name` or `file.py:name`, the user's own function, named in place of a row;
- an entry point of an installed package in the group `compresskit.GROUP`, e.g. `compresskit.criteria`;
- `REGISTRY.register(name, function, help=...)` from Python.

Code of the last three runs only because the user named it. Names that an artifact holds are looked up with `in`, which
knows only the registry's own rows and those registered from Python.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar, cast

from .errors import InputError, nearest
from .user_code.in_memory import is_in_memory, label
from .user_code.user_imports import guarded, named_attribute
from .user_code.user_rows import UserRow, check_call

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
Needs = Literal["", "data", "labels"]

#: entry points of a registry stand in the group `compresskit.` + its own name of a group
ENTRY_POINTS = "compresskit."
#: a user's own row: an importable module or a Python file, a colon, a name in it
REFERENCE = r"^(?:[^\W\d]\w*(?:\.[^\W\d]\w*)*|.*\.py):[^\W\d]\w*$"
_IS_REFERENCE = re.compile(REFERENCE)
_OWN_FORM = "or name your own as file.py:{}"


class Row(NamedTuple):
    target: str  # "module:name", the module relative to the registry's package
    help: str
    source: str = ""  # paper, year
    needs: Needs = ""  # what the function cannot do without; labels are data with targets
    attributes: Mapping[str, Any] = MappingProxyType({})  # what a registry's users ask of a row without importing it

    def described(self) -> str:
        """The help line, with what the row needs."""
        return f"{self.help}; needs {self.needs}" if self.needs else self.help


def is_reference(name: str) -> bool:
    """Whether a name is that of a user's own function: `package.module:name`, `file.py:name`, or one in memory."""
    return is_in_memory(name) or ("\0" not in name and _IS_REFERENCE.match(name) is not None)


class Registry(Mapping[str, Row], Generic[T]):
    """Names of one kind of choice, in the order in which help shows them.

    As a mapping it holds its own rows and those registered from Python; a user's own row and entry points are known to
    `check`, `load` and `needs`.

    Args:
        kind: what a row is, in the words of an error message ("criterion").
        package: the package that row targets are relative to ("compresskit.pruning").
        rows: name -> Row.
        group: name of the group of entry points, without "compresskit."; a registry without one takes no further rows.
        takes: names of the arguments that a row's function is called with, in order, for the check of a user's own.
        has: attributes that a row has where it is no function to call (a Kind, an observer's class ...).
        variants: attribute of a function -> the arguments that it takes where the attribute is true.
        methods: what a class has that is taken in the place of a function; the first is called with `takes`.
        doc: what a row takes and returns, with shapes; `help(REGISTRY)` shows it.
        extends: a registry whose rows are valid here, too, after these.
        returns: "module:function" that says what is wrong with what a user's own returned, or "": it is called with
            that and the arguments. With it, whatever a user's own raises is an InputError, too.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        rows: dict[str, Row],
        *,
        group: str = "",
        takes: tuple[str, ...] | None = None,
        has: tuple[str, ...] = (),
        methods: tuple[str, ...] = (),
        variants: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        doc: str = "",
        extends: Registry[Any] | None = None,
        returns: str = "",
    ):
        self.kind = kind
        self.group: str = group or (extends.group if extends is not None else "")
        self.takes: tuple[str, ...] | None = takes if takes is not None or extends is None else extends.takes
        self._has: tuple[str, ...] = has or (extends._has if extends is not None else ())
        self._methods: tuple[str, ...] = methods or (extends._methods if extends is not None else ())
        self._variants: Mapping[str, tuple[str, ...]] = variants or (extends._variants if extends is not None else {})
        self.__doc__ = doc or (extends.__doc__ if extends is not None else f"Names of each {kind}.")
        self._returns: str = returns or (extends._returns if extends is not None else "")
        self._package = package
        self._rows = rows
        self._extends = extends
        self._registered: dict[str, tuple[Row, T | str]] = {}

    # the registry's own rows, and those registered from Python ---------------------------------------------------
    def __getitem__(self, name: str) -> Row:
        if name in self._rows:
            return self._rows[name]
        if name in self._registered:
            return self._registered[name][0]
        if self._extends is not None and name in self._extends:
            return self._extends[name]
        raise KeyError(self.unknown(name))

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self._registered or (self._extends is not None and name in self._extends)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._rows, *self._registered, *(self._extends or ())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def builtin(self, name: str) -> bool:
        """Whether a name is a row that came with the package."""
        return name in self._rows or (self._extends is not None and self._extends.builtin(name))

    def register(self, name: str, target: T | str, *, help: str = "", source: str = "", needs: Needs = "") -> None:
        """Add a row from Python.

        Args:
            name: what it is called from now on, in this process.
            target: the function (or what else a row is here), or `package.module:name`, imported when it is used.
            help: one line; default: the first line of the function's docstring.
            source: paper, year.
            needs: what the function cannot do without: "data", or "labels".
        Raises:
            InputError: if the registry takes no rows, has that name, or a row is something else.
        """
        if not self.group:
            raise InputError(f"the table of each {self.kind} takes no further rows")
        if self.builtin(name):
            raise InputError(f"{self.kind} {name!r} comes with the package; register yours under another name")
        if not name or is_reference(name):
            raise InputError(f"{name!r} is no name for a {self.kind}: leave the colon out")
        if isinstance(target, str):
            if not is_reference(target):
                raise InputError(f"{self.kind} {name!r}: {target!r} is not package.module:name or file.py:name")
            row = Row(target, help, source, needs)
        else:
            self._verify(target, name)
            first = (inspect.getdoc(target) or "").strip().partition("\n")[0]
            row = Row("", help or first, source, needs or getattr(target, "needs", ""))
        self._registered[name] = (row, target)

    def registered(self) -> Mapping[str, tuple[Row, T | str]]:
        """Rows that were registered from Python, with what each stands for."""
        return MappingProxyType(self._registered)

    # every row ------------------------------------------------------------------------------------------------------
    def rows(self) -> dict[str, Row]:
        """All rows that have names, entry points included: for help, schema and errors. Imports nothing."""
        plugins = {
            name: Row(entry.value, f"from {entry.dist.name}" if entry.dist else "from an installed package")
            for name, entry in self._plugins().items()
        }
        inherited = self._extends.rows() if self._extends is not None else {}
        found = dict(self.items())
        for name, row in {**inherited, **plugins}.items():
            found.setdefault(name, row)
        return found

    def has(self, name: str) -> bool:
        """Whether a row has that name, entry points included; not so of a user's own function."""
        return self._owner(name) is not None

    def check(self, name: str) -> str:
        """The name itself if it can be loaded as far as can be said without running any code.

        Raises:
            ValueError: naming the nearest valid name.
        """
        if self._owner(name) is None and not (self.group and is_reference(name)):
            raise ValueError(self.unknown(name))
        return name

    def unknown(self, name: object) -> str:
        """The error line of a name that is none."""
        mend = nearest(str(name), self.rows())
        own = f", {_OWN_FORM.format('function' if self.takes else 'name')}" if self.group else ""
        question = "?" if mend.endswith("?") else ""
        return f"unknown {self.kind} {name!r}{mend.removesuffix('?')}{own}{question}"

    def load(self, name: str) -> T:
        """What a row stands for; its module is imported now.

        Raises:
            ValueError: if there is no such row, naming the nearest.
            InputError: if a user's own is missing or is not what a row must be.
        """
        owner = self._owner(self.check(name))
        if owner is None:
            return self._own(name, name)
        return owner._load(name)

    def needs(self, name: str) -> Needs:
        """What a row cannot do without; a user's own says it by its attribute `needs`, and is loaded for that."""
        if name in self:
            return self[name].needs
        return getattr(self.load(name), "needs", "")

    def attribute(self, name: str, attribute: str, default: Any) -> Any:
        """What a row says of itself; a user's own says it by an attribute of the function, and is loaded for that.

        Args:
            name: of the row.
            attribute: one of those that the registry's doc names.
            default: where the row does not say it.
        """
        if self.builtin(name):
            return self[name].attributes.get(attribute, default)
        return getattr(self.load(name), attribute, default)

    def code(self, name: str) -> str | None:
        """Where the code of a row lies that did not come with the package: `module:name`, or a file; else None.

        Of a function without a file, written in a notebook for example, it is a hash of the function.
        """
        owner = self._owner(name)
        if owner is None:
            return name if is_reference(name) else None
        if name in owner._rows:
            return None
        target = owner._registered[name][1] if name in owner._registered else owner._plugins()[name].value
        return target if isinstance(target, str) else _place_of(target)

    # helpers --------------------------------------------------------------------------------------------------------
    def _owner(self, name: str) -> Registry[T] | None:
        """The registry, this one or one that it extends, that has a row of that name."""
        if name in self._rows or name in self._registered or (not is_reference(name) and name in self._plugins()):
            return self
        return self._extends._owner(name) if self._extends is not None else None

    def _load(self, name: str) -> T:
        if name in self._rows:
            return cast(T, self._imported(self._rows[name].target))
        if name in self._registered:
            target = self._registered[name][1]
            return self._own(target, name) if isinstance(target, str) else self._verify(target, name)
        with guarded(f"{self.kind} {name!r}", "while being imported"):
            try:
                found = self._plugins()[name].load()
            except (ImportError, AttributeError) as error:
                raise InputError(f"{self.kind} {name!r} does not import: {error}") from error
        return self._verify(found, name)

    def _imported(self, target: str) -> Any:
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(f"{self._package}.{module}"), attribute)

    def _plugins(self) -> Mapping[str, EntryPoint]:
        return entry_points(self.group) if self.group else {}

    def _own(self, reference: str, name: str) -> T:
        return self._verify(named_attribute(reference), name)

    def _verify(self, found: Any, name: str) -> T:
        """What was found, if it is what a row must be.

        Raises:
            InputError: saying what it must be.
        """
        where = f"{self.kind} {label(name) if is_in_memory(name) else name!r}"
        missing = [attribute for attribute in self._has if not hasattr(found, attribute)]
        if missing:
            raise InputError(f"{where} is a {type(found).__name__} without {', '.join(missing)}")
        if self._methods and inspect.isclass(found):
            missing = [name for name in self._methods if not callable(getattr(found, name, None))]
            if missing:
                raise InputError(f"{where} is a class without {', '.join(missing)}")
            first, arguments = self._methods[0], ("self", *(self.takes or ()))
            check_call(getattr(found, first), arguments, f"{where}: {first} must take ({', '.join(arguments)})")
        elif self.takes is not None:
            takes = next((taken for name, taken in self._variants.items() if getattr(found, name, False)), self.takes)
            taken = f"({', '.join(takes)})"
            if not callable(found):
                raise InputError(f"{where} is a {type(found).__name__}, not a function of {taken}")
            check_call(found, takes, f"{where} must take {taken}")
        if self._returns:
            return cast(T, UserRow(found, where, self._imported(self._returns)))
        return cast(T, found)


def _place_of(target: Any) -> str:
    function = inspect.unwrap(target) if callable(target) else type(target)
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    if file and Path(file).is_file():
        return file
    code = getattr(function, "__code__", None)
    text = repr((code.co_code, code.co_consts, code.co_names)) if code is not None else repr(function)
    return hashlib.sha256(text.encode()).hexdigest()


def entry_points(group: str) -> Mapping[str, EntryPoint]:
    """Entry points of installed packages in one group, by name; only their metadata is read.

    Args:
        group: without "compresskit.".
    """
    return _entry_points(tuple(sys.path)).get(group, {})


@functools.lru_cache(maxsize=8)
def _entry_points(path: tuple[str, ...]) -> dict[str, dict[str, EntryPoint]]:
    """All groups of ours, as the import path stands."""
    import importlib.metadata as metadata  # not needed by most commands

    found: dict[str, dict[str, EntryPoint]] = {}
    entries = (entry for package in metadata.distributions() for entry in package.entry_points)
    for entry in entries:  # the first on the path counts
        if entry.group.startswith(ENTRY_POINTS):
            found.setdefault(entry.group.removeprefix(ENTRY_POINTS), {}).setdefault(entry.name, entry)
    return found
