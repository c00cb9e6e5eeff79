"""Running code that the user named: an importable module or a Python file. Nothing else is ever imported by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from ..errors import CompresskitError, InputError, nearest
from . import in_memory

_OWN_FOLDER = str(Path(__file__).resolve().parents[2]) + os.sep
_users_places: set[str] = set()  # files, and folders of packages, that the user named
_modules_of_files: dict[tuple[str, str], ModuleType] = {}  # (absolute path, hash of its content) -> what it defines
_LONGEST_REASON = 300  # characters of a foreign message that an error line repeats

#: the folder that holds our package, for processes that are started without the current folder in their path
PACKAGE_FOLDER = str(Path(__file__).resolve().parents[3])


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The current folder comes first while the user's code is imported, and last from then on.

    Last, so that a json.py that happens to lie there never stands in for a library's own import.
    """
    folder = str(Path.cwd())
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
            sys.path.append(folder)


def import_attribute(module: str, name: str) -> Any:
    """An attribute of an importable module that the user named; the current folder counts as importable.

    Raises:
        InputError: if the module does not import, whatever it raises, or has no such attribute.
    """
    if module == in_memory.PREFIX:
        return in_memory.find(f"{module}:{name}")
    with _current_folder_importable(), guarded(f"{module!r}", "while being imported"):
        try:
            loaded = importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"cannot import {module!r}: {error}") from error
    _note_place(loaded)
    return _attribute(loaded, name, module)


def _note_place(module: Any) -> None:
    """Remember where a named module's code lies: its package's folder, else its file."""
    package = sys.modules.get(module.__name__.partition(".")[0], module)
    places = getattr(package, "__path__", [getattr(package, "__file__", None)])
    _users_places.update(str(place) for place in places if place)


def file_attribute(path: str, name: str) -> Any:
    """An attribute of a Python file that the user named; the file runs once for each of its contents.

    Once, because much that a file does cannot be done twice in a process: a second `torch.library.custom_op` of one
    name destroys the first under the models that use it, and registries of other libraries refuse known names.

    Raises:
        InputError: if there is no such file, it raises while it is read, or has no such attribute.
    """
    import hashlib  # `--help` imports this file, and has nothing to hash

    try:
        if not path.endswith(".py") or not Path(path).is_file():
            raise InputError(f"{path!r} is not a Python file")
        key = (str(Path(path).resolve()), hashlib.sha256(Path(path).read_bytes()).hexdigest())
    except (OSError, ValueError) as error:
        raise InputError(f"{path!r} cannot be read: {error}") from error
    if key not in _modules_of_files:
        _modules_of_files[key] = _run_file(path)
    module = _modules_of_files[key]
    sys.modules[module.__name__] = module  # dataclasses and pickling of workers look modules up by name
    return _attribute(module, name, path)


class _Uncached(SourceFileLoader):
    """Compiles what the file holds now: bytecode beside it may be older, and would litter the user's folders."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run_file(path: str) -> ModuleType:
    name = f"_compresskit_{Path(path).stem}"
    where = str(Path(path).absolute())  # a later change of folder must not part code from its file
    loader = _Uncached(name, where)
    spec = ModuleSpec(name, loader, origin=where)
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    _users_places.add(where)
    sys.modules[name] = module
    with _current_folder_importable(), guarded(f"{path!r}", "while being read"):
        loader.exec_module(module)
    return module


def named_attribute(reference: str) -> Any:
    """What `package.module:name` or `file.py:name` stands for.

    Raises:
        InputError: if there is no such module, file or name, or its code raises.
    """
    where, _, name = reference.rpartition(":")
    return file_attribute(where, name) if where.endswith(".py") else import_attribute(where, name)


@contextmanager
def guarded(what: str, when: str = "") -> Iterator[None]:
    """Run code that the user named: whatever it raises is an InputError.

    Args:
        what: whose code runs, e.g. "'net.py:make'".
        when: what it was doing, for the error line.
    Raises:
        InputError: in the place of any exception but our own and KeyboardInterrupt; SystemExit included, since a
            constructor that calls sys.exit must not end the command.
    """
    try:
        yield
    except (CompresskitError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise InputError(
            f"{what} raised {type(error).__name__}{f' {when}' if when else ''}{f': {reason}' if reason else ''}"
        ) from error


def _check_arguments(signature: inspect.Signature, args: dict[str, Any], what: str) -> None:
    try:
        signature.bind(**args)
    except TypeError as error:
        names = list(signature.parameters)
        unknown = next((name for name in args if name not in names), None)
        if unknown is None and "missing" in str(error):
            wanted = (name for name, one in signature.parameters.items() if one.default is one.empty)
            mend = f"; give it, e.g. --model-arg {next((name for name in wanted if name not in args), 'NAME')}=VALUE"
        else:
            mend = nearest(unknown, names) if unknown else ""
        raise InputError(f"{what}: {error}{mend}") from error


def call_factory(factory: Any, args: dict[str, Any], what: str) -> Any:
    """Call a factory that builds a model.

    Args:
        factory: what to call.
        args: its keyword arguments.
        what: what to call it in errors.
    Raises:
        InputError: if it does not take the arguments, naming the nearest one that it does, or if it raises.
    """
    if not callable(factory):
        raise InputError(f"{what} is a {type(factory).__name__}, not a function or class that builds a model")
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a callable without a signature
        signature = None
    if signature is not None:
        _check_arguments(signature, args, what)
    with guarded(f"{what} with {args or 'no arguments'}"):
        return factory(**args)


def blame(error: BaseException) -> str | None:
    """Where an exception was raised by code that the user named, and what it says; None where that is not so.

    The innermost frame of the user's files counts, as long as what it called is no code of ours: an error inside of a
    library that a user's forward calls is the user's, one inside of our own layers is not.
    """
    found, trace = None, error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _is_users(file):
            found = f"{file}, line {trace.tb_lineno}"
        elif file.startswith(_OWN_FOLDER):
            found = None
        trace = trace.tb_next
    if found is None:
        return None
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    return f"{found}: {type(error).__name__}{f': {reason}' if reason else ''}"


def _is_users(file: str) -> bool:
    return any(file == place or file.startswith(place + os.sep) for place in _users_places)


def _attribute(module: Any, name: str, where: str) -> Any:
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{where!r} has no {name!r}{nearest(name, names)}")
    return getattr(module, name)
