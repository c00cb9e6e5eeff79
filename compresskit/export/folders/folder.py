"""Writing a transformers folder: weights under the library's names, what belongs beside them, a model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...artifact.disk.files import copy_into
from ...core.errors import CompresskitError, InputError
from ...core.types import Loaded
from ...model.libraries.hub import without_progress_bars

_WIDEST_SHARD = "50GB"  # transformers' own default
_LEFT_OUT = ("file", "format", "size_label", "processor", "notes")  # of the facts, in a model card
_POOLINGS = "word_embedding_dimension"


def check_source(loaded: Loaded) -> None:
    """Raises InputError if a model is none of transformers."""
    if loaded.source.get("kind") != "hf":
        raise InputError(
            f"model {loaded.name!r} is not a transformers model (its source is {loaded.source.get('kind')!r}); export "
            "it as onnx or pt2"
        )


def save_library_model(model: nn.Module, loaded: Loaded, folder: Path) -> None:
    """Write a transformers model as a folder: configuration, safetensors sharded like the source, companion files.

    Args:
        model: of transformers' own classes.
        loaded: what it comes from.
        folder: an empty folder.
    """
    shard = loaded.source.get("shard_bytes")
    with without_progress_bars(when=True):
        model.save_pretrained(folder, max_shard_size=int(shard) if shard else _WIDEST_SHARD)  # type: ignore[operator]
    for name, path in loaded.companions.items():
        if path.is_file():
            copy_into(path, folder / name)
    _follow_width(model, folder)


def _follow_width(model: nn.Module, folder: Path) -> None:
    """Files of sentence-transformers that repeat the width of the model's output."""
    width = getattr(model.config, "hidden_size", None)
    for path in folder.glob("*_Pooling/config.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and _POOLINGS in content and isinstance(width, int):
            path.write_text(json.dumps({**content, _POOLINGS: width}, indent=4), encoding="utf-8")


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def naming(loaded: Loaded, work: Callable[[], Any]) -> Any:
    """Run work; what it refuses is said with the model's name.

    Raises:
        InputError: with the model's name before the reason.
    """
    try:
        return work()
    except CompresskitError as error:
        raise InputError(f"model {loaded.name!r} cannot be a transformers folder: {error}") from error


def model_card(loaded: Loaded, facts: Mapping[str, Any]) -> str:
    """A README.md: what the model comes from, what was done to it, and what was measured."""
    done: dict[str, int] = {}
    for edit in loaded.edits:
        done[edit["op"]] = done.get(edit["op"], 0) + 1
    config: dict[str, Any] = next((edit["values"] for edit in reversed(loaded.edits) if edit["op"] == "config"), {})
    lines = [
        "---", "library_name: transformers", "tags:", "- compresskit", "---", "",
        f"# {loaded.name.rstrip('/').rpartition('/')[2]}, compressed", "",
        f"Made with compresskit of a {type(loaded.module).__name__}.",
        *([f"Edits: {', '.join(f'{count} {op}' for op, count in done.items())}."] if done else []),
        *([f"Changed settings: {', '.join(f'`{key}` {value}' for key, value in config.items())}."] if config else []),
        "", "| measured | |", "| --- | --- |",
        *(f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in facts.items() if name not in _LEFT_OUT),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)
