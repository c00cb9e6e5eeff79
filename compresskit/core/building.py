"""Source records: the JSON-able part of a model string, from which the unedited module is built again.

A record is {kind, ...}. Weights are not part of it.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from torch import nn

from . import hub
from .builtin import BUILTINS
from .errors import CompresskitError, InputError, nearest
from .inputs import parse as parse_inputs
from .types import Preprocessing
from .usercode import file_attribute, import_attribute
from .wrappers import unwrapped

_PREFIXES = ("torchvision", "timm", "hf", "builtin")
_MODULE_FORM = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
FORMS = (
    "torchvision:NAME, timm:NAME, hf:DIR_OR_ID, builtin:NAME, package.module:factory, path/net.py:factory, "
    "an artifact directory, a .pt2 file"
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


def build(record: dict[str, Any]) -> nn.Module:
    """The unedited module of a source record, on the current default device (meta included)."""
    return build_with_defaults(record, pretrained=False, defaults=False)[0]


def build_with_defaults(
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
    module = unwrapped(module, f"model {source_string(record)!r}")
    if not defaults:
        return module, {}
    shape = getattr(module, "input_shape", None)
    return module, {
        "example": found.get("example", parse_inputs([",".join(map(str, shape))]) if shape else None),
        "preprocessing": found.get("preprocessing", preprocessing_of(module)),
    }


def source_string(record: dict[str, Any]) -> str:
    """The model string that a source record came from."""
    if record.get("factory"):
        return f"{record.get('path') or record.get('module')}:{record['factory']}"
    return f"{record.get('kind')}:{record.get('name')}"


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
