"""Model libraries: torchvision, timm, transformers. Each is imported only when a string names it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.errors import CompresskitError, InputError, first_line, nearest, require
from ...core.limits.json_files import LARGEST_MANIFEST_BYTES, read_json
from ...core.manifest.preprocessing import declared_normalization, declared_shape
from ...core.types import Inputs, Preprocessing
from .arguments import TIMM_EXTRAS, library_args, makers_of, transformers_config
from .examples import transformers_example
from .stored_dtypes import loading_dtype, main_dtype, restore_dtypes, stored_dtypes, weight_files


def _quiet_download(what: str, build, *args, **kwargs) -> nn.Module:
    try:
        return build(*args, **kwargs)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{what}: the published weights cannot be fetched here ({first_line(error)}); name a weights file"
        ) from error


def torchvision_model(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    """A torchvision model and the inputs its published weights expect."""
    models = require("torchvision.models", "vision")
    name, args = record["name"], record["args"]
    if name not in models.list_models():
        raise InputError(f"torchvision has no model {name!r}{nearest(name, models.list_models())}")
    args = library_args(f"torchvision:{name}", args, makers_of(models.get_model_builder(name)))
    weights = models.get_model_weights(name)
    preset = weights.DEFAULT.transforms() if len(weights) else None
    if pretrained:
        module = _quiet_download(f"torchvision:{name}", models.get_model, name, weights="DEFAULT", **args)
    else:
        builder = models.get_model_builder(name)
        extra: dict[str, Any] = {}
        if "." not in name and _takes(builder, "weights_backbone"):
            extra["weights_backbone"] = None
        if _takes(builder, "init_weights"):
            extra.setdefault("init_weights", True)
        module = _call(builder, f"torchvision:{name}", {"weights": None, **extra, **args})
    side = getattr(preset, "crop_size", None)
    wanted: tuple[int, int] | None = (side[0], side[-1]) if side else (224, 224)
    size = wanted or (224, 224)
    mean, std = tuple(getattr(preset, "mean", ())), tuple(getattr(preset, "std", ()))
    family = type(module).__module__
    if ".detection." in family:
        example: Inputs = ([torch.zeros(3, 224, 224)],)
        mean, std, wanted = (), (), None  # a detector resizes and normalizes by itself
    elif ".video." in family:
        example = torch.zeros(1, 3, 16, *size)
    elif ".optical_flow." in family:
        example = (torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128))
    else:
        example = torch.zeros(1, 3, *size)
    return module, {"example": _filled(example), "preprocessing": Preprocessing(mean, std, wanted, 3)}


def _takes(function, name: str) -> bool:
    import inspect

    return name in inspect.signature(function).parameters


def _call(builder, what: str, args: dict[str, Any]) -> nn.Module:
    with _library(what):
        return builder(**args)


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Whatever a library raises on arguments and configurations that it does not check is the input's fault."""
    try:
        yield
    except CompresskitError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)[:300]}") from error


def timm_model(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    """A timm model and the inputs its configuration names."""
    timm = require("timm", "timm")
    name, args = record["name"], record["args"]
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    args = library_args(f"timm:{name}", args, makers_of(timm.models.model_entrypoint(name)), TIMM_EXTRAS)
    if pretrained:
        module = _quiet_download(f"timm:{name}", timm.create_model, name, pretrained=True, **args)
    else:
        module = _call(timm.create_model, f"timm:{name}", {"model_name": name, "pretrained": False, **args})
    config = getattr(module, "pretrained_cfg", None) or {}
    channels, *size = config.get("input_size", (3, 224, 224))
    return module, {
        "example": _filled(torch.zeros(1, channels, *size)),
        "preprocessing": Preprocessing(
            tuple(config.get("mean", ())), tuple(config.get("std", ())), tuple(size), channels
        ),
    }


def hf_record(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """The source record of a transformers model: its class and its whole configuration, so it rebuilds offline."""
    transformers = require("transformers", "hf")
    options = dict(args)
    wanted = options.pop("class", None)
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"hf:{name}: no config.json in that directory")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"hf:{name}: {first_line(error)}") from error
    chosen = wanted or (config.architectures or ["AutoModel"])[0]
    stored = main_dtype(stored_dtypes(path)) if path.is_dir() else None
    if stored is not None:
        config.dtype = stored  # what is built without weights has the type of those in the folder
    record = {"kind": "hf", "name": name, "class": chosen, "config": json.loads(config.to_json_string(use_diff=False))}
    shards = [file.stat().st_size for file in weight_files(path)] if path.is_dir() else []
    if len(shards) > 1:
        record["shard_bytes"] = max(shards)  # a folder that is written of the model is sharded alike
    _hf_class(record)  # an unknown class is refused before anything is built
    return record


def _folder(record: dict[str, Any]) -> Path:
    """Where a transformers model's files may lie; nowhere for a record out of a manifest, which brings all it needs."""
    return Path(os.devnull if record.get("carried") else record["name"])


def _hf_class(record: dict[str, Any]) -> Any:
    transformers = require("transformers", "hf")
    name = str(record["class"])
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if found is None or not (isinstance(found, type) and issubclass(found, nn.Module) or name.startswith("AutoModel")):
        raise InputError(f"hf:{record.get('name')}: transformers has no model class {name!r}")
    return found


def hf_architecture(record: dict[str, Any]) -> nn.Module:
    """A transformers model without its weights; nothing is read but the record."""
    model_class, config = _hf_class(record), _hf_config(record)
    build = getattr(model_class, "from_config", None) or getattr(model_class, "_from_config", None)
    return _call(build or model_class, f"hf:{record['name']}", {"config": config})


def _hf_config(record: dict[str, Any]) -> Any:
    transformers = require("transformers", "hf")
    what = f"hf:{record['name']}"
    settings = transformers_config(what, record["config"])
    with _library(what):
        return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)


def hf_model(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    """A transformers model with the weights that lie beside its configuration, or the published ones."""
    config = _hf_config(record)
    model_class = _hf_class(record)
    folder = _folder(record)
    has_weights = any(folder.glob("*.safetensors")) if folder.is_dir() else False
    if pretrained or has_weights:
        stored = stored_dtypes(folder) if has_weights else {}
        with without_progress_bars(when=has_weights):  # a download may take long, and shows how far it is
            module = _quiet_download(
                f"hf:{record['name']}",
                model_class.from_pretrained,
                record["name"],
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=loading_dtype(stored) if stored else "auto",
            )
        restore_dtypes(module, stored)
    else:
        module = hf_architecture(record)
    return module, {
        "example": transformers_example(module, config, str(folder)),
        "preprocessing": _hf_preprocessing(str(folder), config),
    }


@contextmanager
def without_progress_bars(when: bool) -> Iterator[None]:
    """No bars of transformers inside, where asked for; they are as they were afterwards."""
    logging = require("transformers.utils.logging", "hf")
    if not when or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _hf_preprocessing(name: str, config: Any) -> Preprocessing:
    size = getattr(config, "image_size", None)
    shape = declared_shape(size if isinstance(size, list | tuple) else (size, size))
    if shape is None or len(shape) != 2:
        return Preprocessing()
    settings = Path(name) / "preprocessor_config.json"
    where = repr(str(settings))
    found = read_json(settings, where, LARGEST_MANIFEST_BYTES) if settings.is_file() else {}
    if not isinstance(found, dict):
        raise InputError(f"{where} holds a {type(found).__name__}, not a mapping")
    half = (0.5, 0.5, 0.5)
    mean, std = declared_normalization(found.get("image_mean", half), found.get("image_std", half), where)
    return Preprocessing(mean, std, shape, getattr(config, "num_channels", 3))


def _filled(example: Any) -> Any:
    """Zeros replaced by values that spread, whole numbers kept."""
    from ..example_inputs import settle, spread

    if isinstance(example, torch.Tensor):
        return spread(example.shape, example.dtype) if example.is_floating_point() else settle(example)
    if isinstance(example, dict):
        return {name: _filled(value) for name, value in example.items()}
    return type(example)(_filled(value) for value in example)
