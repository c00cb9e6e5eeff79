"""What a file that leaves says of itself: what it was made of and how, what goes in, what comes out."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import __version__
from ...core.types import Loaded
from ...data.dataset import Data
from ...model.builders import source_string
from ...model.text_inputs import text_inputs_of
from ...training.context import Context

#: folders before a name, in a word that may say `kind:` or `key=` first
_FOLDERS = re.compile(r"(?:[^\s:=,'\"]*[/\\])+(?=[^\s:=,'\"/\\]*)")
_HUB = re.compile(r"hf:[\w.-]+/[\w.-]+")
_GENERIC_LABEL = re.compile(r"LABEL_\d+")
_PROGRAMS = ("compresskit", "__main__.py")


def description(
    loaded: Loaded, context: Context, preprocess: str = "outside", runtime: str = "", labels: Sequence[str] = ()
) -> dict[str, Any]:
    """What a file says of its model; JSON-able, without any path of this machine.

    Args:
        loaded: the model.
        context: its recipe names the model, its data the labels and what is done to images.
        preprocess: whether images are scaled and normalized outside of the graph or inside.
        runtime: that the file is written for.
        labels: names of the classes, in the place of those that data and model say.
    Returns:
        compresskit (version), model, runtime where it is named, edits (a line each), weights_sha256; command, where it
        was a command; preprocessing of images and labels of classes, where they are known; text, for models of token
        ids.
    """
    recipe = context.recipe or {}
    given = str(recipe.get("model") or source_string(loaded.source) if loaded.source else loaded.name)
    found: dict[str, Any] = {
        "compresskit": __version__,
        "model": names_only(given) or given,
        "edits": edits_in_short(loaded.edits),
        "weights_sha256": weights_sha256(loaded.module),
    }
    if runtime:
        found["runtime"] = runtime
    if command := command_line():
        found["command"] = command
    if preprocessing := preprocessing_of(loaded, context.data):
        found["preprocessing"] = preprocessing | {"where": preprocess}
    if names := list(labels) or labels_of(loaded, context.data):
        found["labels"] = names
    if text := text_inputs_of(loaded.module):
        found["text"] = {"kind": text.kind, "max_length": text.max_length}
    return found


def names_only(text: str) -> str:
    """A string in which paths are reduced to the names of their files; identifiers of the hub stay whole."""
    if _HUB.fullmatch(text) and not Path(text[3:]).exists():
        return text
    return _FOLDERS.sub("", text.rstrip("/"))


def command_line() -> str:
    """The command that runs, its paths reduced to names; "" where it is not one of ours."""
    program, *arguments = sys.argv or [""]
    if Path(program).name not in _PROGRAMS:
        return ""
    return " ".join(["compresskit", *map(names_only, arguments)])


def edits_in_short(edits: list[dict[str, Any]]) -> list[str]:
    """How often each kind of edit was made; of quantized layers their format and bits as well."""
    counts: Counter[str] = Counter()
    for edit in edits:
        kind = str(edit["op"])
        if kind == "quantized" and edit.get("bits"):
            kind += f" {edit.get('format', 'int')} of {edit['bits']} bits"
        counts[kind] += 1
    return [f"{count} x {kind}" for kind, count in counts.items()]


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of a model's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        values = tensor.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def preprocessing_of(loaded: Loaded, data: Data | None) -> dict[str, Any]:
    """What is done to an image of bytes before the model: the data's own preprocessing, else what the model declares.

    Returns:
        size (height, width), mean, std, order (rgb, bgr or gray); empty for models of anything but one image.
    """
    if not isinstance(loaded.example, Tensor) or loaded.example.dim() != 4:
        example = list(loaded.example.values()) if isinstance(loaded.example, dict) else []
        if len(example) != 1 or example[0].dim() != 4:
            return {}
        image = example[0]
    else:
        image = loaded.example
    channels = image.shape[1]
    if channels not in (1, 3):
        return {}
    wanted = data.transform.wanted if data is not None else loaded.preprocessing
    order = "gray" if channels == 1 else data.transform.order if data is not None else "rgb"
    return {
        "size": list(wanted.size or image.shape[2:]),
        "mean": list(wanted.mean) or [0.0] * channels,
        "std": list(wanted.std) or [1.0] * channels,
        "order": order,
    }


def labels_of(loaded: Loaded, data: Data | None) -> list[str]:
    """Names of the classes, as the data's files or the model's configuration have them; empty where neither does."""
    if data is not None and data.classes:
        return [str(name) for name in data.classes]
    config = getattr(loaded.module, "config", None)
    labels = getattr(config, "id2label", None)
    if not isinstance(labels, dict) or not labels:
        return []
    if not type(loaded.module).__name__.endswith("Classification"):
        return []
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    return [] if all(_GENERIC_LABEL.fullmatch(name) for name in names) else names
