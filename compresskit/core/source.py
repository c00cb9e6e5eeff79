"""Model strings: from `torchvision:resnet18` or an artifact directory to a loaded model.

A source record is the JSON-able part that rebuilds the unedited module: {kind, ...}. Weights are not part of it.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import hub, inputs as example_inputs
from .builtin import BUILTINS
from .errors import CompresskitError, InputError, nearest
from .types import Inputs, Loaded, Preprocessing
from .weights import check_finite, load_into, read_weights

_PREFIXES = ("torchvision", "timm", "hf", "builtin")
_MODULE_FORM = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
FORMS = (
    "torchvision:NAME, timm:NAME, hf:DIR_OR_ID, builtin:NAME, package.module:factory, path/net.py:factory, "
    "an artifact directory, a .pt2 file"
)


def load_model(
    string: str,
    *,
    weights: str | None = None,
    model_args: dict[str, Any] | None = None,
    inputs: list[str] | None = None,
    trust_source: bool = False,
    source: str | None = None,
    seed: int = 0,
) -> Loaded:
    """Build and load the model that a string names.

    Args:
        string: one of FORMS.
        weights: a weights file, "pretrained" (the library's own weights), or None for the form's default.
        model_args: keyword arguments of the factory.
        inputs: example inputs, `[NAME=]D,D,...[:DTYPE[:HIGH]]` without the batch dimension.
        trust_source: let an artifact run the user code it names, or read a .pt2 file.
        source: user code named again, which an artifact made from user code may then run.
        seed: seeds the random initialization where no weights are given.
    Raises:
        InputError: naming what is wrong and the nearest valid name.
    """
    from . import artifact  # artifact builds sources, so it cannot be imported at the top

    path = Path(string)
    if path.is_dir() or string.rstrip("/").endswith("manifest.json"):
        _refuse(string, "an artifact directory", weights=weights, model_args=model_args, inputs=inputs)
        return artifact.load(path if path.is_dir() else path.parent, trust_source=trust_source, source=source)
    if path.suffix == ".pt2":
        _refuse(string, "a .pt2 file", weights=weights, model_args=model_args)
        return _load_pt2(path, inputs, trust_source)
    record = parse(string, model_args or {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, defaults = _build_with_defaults(record, pretrained=weights == "pretrained")
    if not isinstance(module, nn.Module):
        raise InputError(f"model {string!r}: the factory returned a {type(module).__name__}, not an nn.Module")
    if weights and weights != "pretrained":
        load_into(module, read_weights(weights), f"weights {weights!r}")
    check_finite(module.state_dict(), f"model {string!r}")
    example = example_inputs.parse(inputs) if inputs else defaults["example"]
    return Loaded(
        module.eval(), record, example, preprocessing=defaults["preprocessing"], name=string.rpartition(":")[2]
    )


def parse(string: str, model_args: dict[str, Any]) -> dict[str, Any]:
    """A source record from a model string that names a factory.

    Raises:
        InputError: if the string has none of the forms.
    """
    prefix, colon, name = string.partition(":")
    if colon and prefix in _PREFIXES and name:
        if prefix == "hf":
            return hub.hf_record(name, model_args)
        return {"kind": prefix, "name": name, "args": model_args}
    if colon and (prefix.endswith(".py") or "/" in prefix):
        if not Path(prefix).is_file():
            raise InputError(f"model {string!r}: file {prefix!r} does not exist")
        return {"kind": "file", "path": prefix, "factory": name, "args": model_args}
    if _MODULE_FORM.match(string):
        return {"kind": "module", "module": prefix, "factory": name, "args": model_args}
    if "/" in string or string.startswith("."):
        raise InputError(f"model {string!r} does not exist; a model is one of {FORMS}")
    raise InputError(f"model {string!r} is none of the known forms{_form_hint(string)}")


def _form_hint(string: str) -> str:
    if string in BUILTINS:
        return f"; did you mean 'builtin:{string}'?"
    prefix, colon, name = string.partition(":")
    hint = nearest(prefix, _PREFIXES) if colon else ""
    return hint.replace(f"{prefix!r}", repr(prefix)) if "mean" in hint else f": {FORMS}"


def _refuse(string: str, what: str, **given: Any) -> None:
    for name, value in given.items():
        if value:
            raise InputError(
                f"model {string!r} is {what}, which brings its own {name.replace('_', ' ')}; leave {name} out"
            )


def build(record: dict[str, Any]) -> nn.Module:
    """The unedited module of a source record, on the current default device (meta included)."""
    return _build_with_defaults(record, pretrained=False, defaults=False)[0]


def _build_with_defaults(
    record: dict[str, Any], pretrained: bool, defaults: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    kind = record.get("kind")
    builders = {
        "builtin": _builtin,
        "torchvision": hub.torchvision_model,
        "timm": hub.timm_model,
        "hf": hub.hf_model,
        "module": _module_factory,
        "file": _file_factory,
    }
    if kind not in builders:
        raise InputError(f"source kind {kind!r} is not one of {', '.join(builders)}")
    if pretrained and kind not in ("torchvision", "timm", "hf"):
        raise InputError(f"weights 'pretrained': a {kind} model has no published weights; name a weights file")
    module, found = builders[kind](record, pretrained)
    if not defaults:
        return module, {}
    shape = getattr(module, "input_shape", None)
    return module, {
        "example": found.get("example", example_inputs.parse([",".join(map(str, shape))]) if shape else None),
        "preprocessing": found.get("preprocessing", preprocessing_of(module)),
    }


def preprocessing_of(module: nn.Module) -> Preprocessing:
    """What a module says of its own inputs through `mean`, `std` and `input_shape` attributes."""
    shape = getattr(module, "input_shape", ())
    image = len(shape) == 3
    return Preprocessing(
        tuple(getattr(module, "mean", ())),
        tuple(getattr(module, "std", ())),
        tuple(shape[1:]) if image else None,
        shape[0] if image else None,
    )


def call_factory(factory: Any, args: dict[str, Any], what: str) -> nn.Module:
    """Call a factory; arguments it does not take are an InputError naming the nearest one that it does."""
    try:
        signature = inspect.signature(factory)
        signature.bind(**args)
    except TypeError as error:
        names = list(signature.parameters)
        unknown = next((name for name in args if name not in names), None)
        raise InputError(f"{what}: {error}{nearest(unknown, names) if unknown else ''}") from error
    except ValueError:  # a callable without a signature
        pass
    try:
        return factory(**args)
    except CompresskitError:
        raise
    except Exception as error:
        raise InputError(f"{what} with {args or 'no arguments'} raised {type(error).__name__}: {error}") from error


def _builtin(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict]:
    try:
        factory = BUILTINS.load(record["name"])
    except ValueError as error:
        raise InputError(str(error)) from None
    return call_factory(factory, record["args"], f"builtin:{record['name']}"), {}


def _module_factory(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict]:
    what = f"{record['module']}:{record['factory']}"
    factory = import_attribute(record["module"], record["factory"])
    return call_factory(factory, record["args"], what), {}


def _file_factory(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict]:
    what = f"{record['path']}:{record['factory']}"
    return call_factory(file_attribute(record["path"], record["factory"]), record["args"], what), {}


def import_attribute(module: str, name: str) -> Any:
    """An attribute of an importable module that the user named; the current folder counts as importable."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"cannot import {module!r}: {error}") from error
    return _attribute(loaded, name, module)


def file_attribute(path: str, name: str) -> Any:
    """An attribute of a Python file that the user named."""
    spec = importlib.util.spec_from_file_location(f"_compresskit_{Path(path).stem}", path)
    if spec is None or not Path(path).is_file():
        raise InputError(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling of workers look modules up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path!r} raised {type(error).__name__} while being read: {error}") from error
    return _attribute(module, name, path)


def _attribute(module: Any, name: str, where: str) -> Any:
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{where!r} has no {name!r}{nearest(name, names)}")
    return getattr(module, name)


def _load_pt2(path: Path, inputs: list[str] | None, trust_source: bool) -> Loaded:
    if not path.is_file():
        raise InputError(f"model {str(path)!r} does not exist")
    if not trust_source:
        raise InputError(
            f"model {str(path)!r}: reading a .pt2 can run code it carries; say --trust-source if you made it"
        )
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InputError(f"model {str(path)!r} is not a readable .pt2 archive: {str(error).splitlines()[0]}") from error
    args, kwargs = program.example_inputs or ((), {})
    example: Inputs | None = dict(kwargs) or (args[0] if len(args) == 1 else tuple(args) or None)
    if inputs:
        example = example_inputs.parse(inputs)
    return Loaded(program.module(), {"kind": "pt2", "path": str(path)}, copy.deepcopy(example), name=path.stem)


def with_example(loaded: Loaded, data_shape: tuple[int, ...] | None) -> Loaded:
    """The same model with an example input, taken from the data where the model names none.

    Raises:
        InputError: if neither the model nor the data says what the input looks like.
    """
    if loaded.example is None and data_shape:
        loaded.example = example_inputs.parse([",".join(map(str, data_shape))])
    if loaded.example is None:
        raise InputError(f"model {loaded.name!r}: its input shape is unknown; give --input, e.g. --input 3,224,224")
    return loaded
