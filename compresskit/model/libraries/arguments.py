"""Arguments that a model library gets: names from its own signatures, plain values, nothing that names a file or a URL.

Model strings and manifests go the same way, so what can be saved can be loaded, and no artifact makes a library read,
download or import anything.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...core.errors import InputError, nearest

#: arguments that make a library load something; weights are named by themselves, with --weights
_LOADING = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn",
    "pretrained_model_args", "pretrained_backbone", "checkpoint_path", "cache_dir", "weights", "weights_backbone",
    "progress", "url", "file", "hf_hub_id", "model_cfg", "feature_cfg", "kwargs_filter", "no_jit", "backbone",
    "model_name", "device", "dtype",
}  # fmt: skip
#: what timm's model functions take beside the arguments of the class that they build
TIMM_EXTRAS = {"features_only", "out_indices", "feature_cls", "scriptable", "exportable", "img_size", "input_size"}
_LARGEST_INTEGER = 1 << 24  # classes, pixels, channels
_MOST_ITEMS = 4096
_DEEPEST = 4
_PLAIN_TEXT = re.compile(r"[\w.+\-]{0,128}", re.ASCII)  # names of activations, poolings ...; no path, no URL

# keys of a transformers configuration that make it fetch or run something
_HF_REFUSED = {
    "auto_map", "trust_remote_code", "use_pretrained_backbone", "custom_pipelines", "checkpoint_path", "cache_dir",
    "pretrained_backbone", "use_kernels",
}  # fmt: skip
_HF_NAMES_A_FILE = re.compile(r"(^|_)(path|file|dir|url|uri|checkpoint)$")
_HF_IGNORED = {"_name_or_path", "name_or_path"}  # where the configuration was read from; nothing is read there again
_HF_ATTENTION = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", ""}
_HF_REPOSITORY_KEYS = {"backbone", "architecture"}
_HF_TIMM_ARGS = {"model_args", "backbone_kwargs"}
_HF_LARGEST_INTEGER = 1 << 40
_HF_MOST_LABELS = 1 << 20


def library_args(what: str, args: Any, makers: Iterable[Callable], extras: Iterable[str] = ()) -> dict[str, Any]:
    """The arguments of a library's model, checked.

    Args:
        what: the model string, for errors, e.g. "timm:resnet18".
        args: name -> value.
        makers: the function that builds the model and the class it builds; their parameters are what may be given.
        extras: further names that may be given.
    Raises:
        InputError: naming the argument that is refused, and why.
    """
    if not isinstance(args, Mapping):
        raise InputError(f"{what}: arguments must be a mapping, got {args!r:.60}")
    accepted = _parameters(makers, extras)
    for name, value in args.items():
        if name in _LOADING:
            raise InputError(f"{what}: argument {name!r} is not passed on; name a weights file, or weights pretrained")
        if accepted is not None and name not in accepted:
            raise InputError(f"{what}: unknown argument {str(name)[:60]!r}{nearest(str(name)[:60], accepted)}")
        _check_value(f"{what}: argument {str(name)[:60]!r}", value)
    return dict(args)


def makers_of(function: Callable) -> list[Callable]:
    """A library's model function, and the class that it builds where its annotation says so."""
    return [function, *_returned(function)]


def _returned(function: Callable) -> list[Callable]:
    found = inspect.signature(function, eval_str=True).return_annotation
    return [found] if isinstance(found, type) and found is not inspect.Signature.empty else []


def _parameters(makers: Iterable[Callable], extras: Iterable[str]) -> set[str] | None:
    """Names that the makers take; None where the last of them takes any."""
    names: set[str] = set(extras)
    open_ended = True
    for maker in makers:
        parameters = inspect.signature(maker).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if open_ended else names - _LOADING


def _check_value(where: str, value: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise InputError(f"{where} is nested too deep")
    if isinstance(value, str):
        if not _PLAIN_TEXT.fullmatch(value):
            raise InputError(f"{where} must be a plain name, got {value[:60]!r}")
    elif isinstance(value, int):
        if abs(value) > _LARGEST_INTEGER:
            raise InputError(f"{where} must be at most {_LARGEST_INTEGER:,}, got {value}")
    elif isinstance(value, list | tuple | Mapping):
        if len(value) > _MOST_ITEMS:
            raise InputError(f"{where} has {len(value):,} items, more than {_MOST_ITEMS:,}")
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_value(where, item, depth + 1)
    elif not isinstance(value, float | None):
        raise InputError(f"{where} must be made of numbers and names, got a {type(value).__name__}")


def transformers_config(what: str, config: Any) -> dict[str, Any]:
    """A transformers configuration, checked, without the place that it was read from.

    Args:
        what: the model string, for errors.
        config: what the source record holds.
    Raises:
        InputError: if it is no configuration, or names code, a download, a file or a path.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("model_type"), str):
        raise InputError(f"{what}: the configuration is no mapping with a model_type")
    return _cleaned(what, config)


def _cleaned(what: str, config: Any, key: str = "") -> Any:
    if isinstance(config, Mapping):
        refused = next((name for name in config if name in _HF_REFUSED and config[name]), None)
        if refused:
            raise InputError(f"{what}: the configuration's {refused!r} would run or fetch something; it is not taken")
        if key in _HF_TIMM_ARGS:
            return library_args(f"{what}: {key}", config, [])
        return {name: _cleaned(what, value, name) for name, value in config.items() if name not in _HF_IGNORED}
    if isinstance(config, list):
        return [_cleaned(what, value, key) for value in config]
    if isinstance(config, str) and config:
        _check_hf_text(what, key, config)
    if isinstance(config, int) and abs(config) > (_HF_MOST_LABELS if key == "num_labels" else _HF_LARGEST_INTEGER):
        raise InputError(f"{what}: the configuration's {key!r} is {config}")
    return config


def _check_hf_text(what: str, key: str, text: str) -> None:
    attention = key.strip("_") in ("attn_implementation", "attn_implementation_internal")
    wrong = (
        _HF_NAMES_A_FILE.search(key)
        or (attention and text not in _HF_ATTENTION)
        or (key in _HF_REPOSITORY_KEYS and not _PLAIN_TEXT.fullmatch(text))
    )
    if wrong:
        raise InputError(f"{what}: the configuration's {key!r} names {text[:60]!r}, which is not read; leave it out")
