"""Exported programs (`.pt2`) as models: read-only, for inspect, diff, export, and as a teacher."""

from __future__ import annotations

import copy
import json
import logging
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import InputError, beside, first_line
from ..core.limits.json_files import LARGEST_MANIFEST_BYTES
from ..core.reporting.loggers import quiet_loggers
from ..core.types import Inputs, Loaded, Preprocessing, call, or_later
from . import example_inputs

#: what an archive of ours says of itself
DESCRIPTION_FILE = "compresskit.json"
#: an entry that each version of torch.export.save writes; newer ones nest it in a folder
_MARKERS = ("archive_format", "serialized_exported_program.json")


def load_exported(path: Path, inputs: list[str] | None = None, *, trust_source: bool = False) -> Loaded:
    """The program of a .pt2 file as a model, with the example that it was exported with.

    Args:
        path: the file.
        inputs: example inputs in the place of the program's own.
        trust_source: reading one can run code that it carries, so that its user must say so.
    Raises:
        InputError: if the file is missing, is no such archive, is damaged, or was not trusted.
    """
    program, about = _read(path, trust_source)
    module = _as_module(program)
    module.__dict__["about"] = about
    example = example_inputs.parse(inputs) if inputs else _own_example(program)
    loaded = Loaded(
        module, {"kind": "pt2", "path": str(path)}, or_later(example), name=path.stem,
        preprocessing=preprocessing_in(about),
    )  # fmt: skip
    if not inputs and example is not None:
        loaded.example = _with_one(module, example)
    return loaded


def preprocessing_in(about: Mapping[str, Any]) -> Preprocessing:
    """What a file says of the images that it takes."""
    wanted = about.get("preprocessing")
    if not isinstance(wanted, dict):
        return Preprocessing()
    try:
        height, width = (int(size) for size in wanted["size"])
        mean, std = (tuple(float(value) for value in wanted[name]) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        return Preprocessing()
    return Preprocessing(mean, std, (height, width), 1 if wanted.get("order") == "gray" else 3)


def exported_program(module: nn.Module) -> torch.export.ExportedProgram | None:
    """The program that a module was read from; None for any other module."""
    return module.__dict__.get("exported_program")


def by_layer(loaded: Loaded) -> tuple[nn.Module, dict[str, str]]:
    """A model whose layers can be told apart, and the kind of each by name; a plain model is that itself.

    A program runs as one graph; its record of the source's modules splits it into layers again, where it is whole.
    """
    program = exported_program(loaded.module)
    if program is not None:
        try:
            layers = torch.export.unflatten(program)
            _take_any_form(layers, program)
            return layers, {name: layer.type_name().rpartition(".")[2] for name, layer in _typed(layers)}
        except (RuntimeError, AssertionError, ValueError, KeyError, AttributeError) as error:
            logging.getLogger(__name__).debug("%s is not split into layers: %s", loaded.name, error)
    return loaded.module, {name: type(layer).__name__ for name, layer in loaded.module.named_modules()}


def single_example(loaded: Loaded) -> Inputs:
    """Inputs of batch size 1, or of the one size that a program was exported for."""
    return loaded.example if is_exported_source(loaded.source) else example_inputs.with_batch(loaded.example, 1)


def is_exported_source(source: dict[str, Any]) -> bool:
    """Whether a source record is that of a .pt2 file."""
    return source.get("kind") == "pt2"


def _typed(layers: nn.Module) -> list[tuple[str, Any]]:
    return [(name, layer) for name, layer in layers.named_modules() if getattr(layer, "type_name", None)]


def _read(path: Path, trust_source: bool) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    """The program, and what it says of itself."""
    if not path.is_file():
        raise InputError(f"model {str(path)!r} does not exist{beside(path)}")
    if not _is_archive(path):
        raise InputError(f"model {str(path)!r} is not a .pt2 archive: torch.export.save did not write it, or not whole")
    if not trust_source:
        raise InputError(
            f"model {str(path)!r}: reading a .pt2 can run code it carries; say --trust-source if you made it"
        )
    try:
        with quiet_loggers("torch.export"):
            return torch.export.load(path), _description(path)
    except Exception as error:  # whatever a damaged or foreign archive brings about
        reason = first_line(error.__cause__ or error.__context__ or error)
        raise InputError(f"model {str(path)!r} is a damaged .pt2, or of another version of torch: {reason}") from error


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] in _MARKERS for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _description(path: Path) -> dict[str, Any]:
    """What our exporter wrote beside the graph; nothing of another's files."""
    with zipfile.ZipFile(path) as archive:
        found = [entry for entry in archive.infolist() if entry.filename.endswith(f"/{DESCRIPTION_FILE}")]
        if len(found) != 1 or found[0].file_size > LARGEST_MANIFEST_BYTES:
            return {}
        try:
            about = json.loads(archive.read(found[0]))
        except (ValueError, RecursionError):
            return {}
    return about if isinstance(about, dict) else {}


def _as_module(program: torch.export.ExportedProgram) -> nn.Module:
    module = program.module()
    # its modes change nothing, but whoever measures a model sets them
    for name in ("train", "eval"):
        setattr(module, name, types.MethodType(getattr(nn.Module, name), module))
    _take_any_form(module, program)
    module.__dict__["exported_program"] = program  # a deep copy goes without
    return module.eval()


def _take_any_form(module: nn.Module, program: torch.export.ExportedProgram) -> None:
    """Let a module be called by names alone, as examples are, where the program takes positional inputs as well."""
    if program.call_spec.in_spec is None:
        return
    positional, named = program.call_spec.in_spec.children()
    names = _positional_names(program, positional.num_children)

    def bind(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if args or not names or not all(name in kwargs for name in names):
            return None
        return tuple(kwargs[name] for name in names), {k: v for k, v in kwargs.items() if k not in names}

    if named.num_children:
        module.register_forward_pre_hook(bind, with_kwargs=True, prepend=True)


def _positional_names(program: torch.export.ExportedProgram, count: int) -> list[str]:
    """Names for positional inputs: those of the graph where each is one tensor."""
    names = list(program.graph_signature.user_inputs)
    return [str(name) for name in names[:count]]


def _own_example(program: torch.export.ExportedProgram) -> Inputs | None:
    given: tuple[tuple[Any, ...], dict[str, Any]] = program.example_inputs or ((), {})
    args, kwargs = given
    if kwargs:
        names = _positional_names(program, len(args))
        return example_inputs.settle(copy.deepcopy({**dict(zip(names, args, strict=True)), **kwargs}))
    example = args[0] if len(args) == 1 else tuple(args) or None
    return None if example is None else example_inputs.settle(copy.deepcopy(example))


@torch.no_grad()
def _with_one(module: nn.Module, example: Inputs) -> Inputs:
    """The example with a batch of one; as it is where the program was exported for another size alone."""
    try:
        one = example_inputs.with_batch(example, 1)
        call(module, one)
    except Exception:  # guards of the program, or operations that its sizes no longer fit
        return example
    return one
