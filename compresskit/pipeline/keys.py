"""Keys of steps: a hash of everything that decides a step's result, so that an unchanged prefix is not run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .. import __version__
from ..core import artifact
from ..core.errors import InputError
from ..core.weights import sha256_of, sha256_of_weights
from .recipe import RecipeOptions, Step


def is_finished(place: Path, key: str) -> bool:
    try:
        return artifact.read_manifest(place)["provenance"].get("key") == key and artifact.read_report(place) is not None
    except (InputError, ValueError):
        return False


def base_key(options: RecipeOptions) -> str:
    """Hash of everything that decides the first step's input: model, weights, data, evaluation, seed, version."""
    record = options.model_dump(exclude={"output", "threads"})
    if record["weights"]:
        record["weights"] = sha256_of_weights(record["weights"]) or record["weights"]
    manifest = Path(options.model) / artifact.MANIFEST
    if manifest.is_file():
        record["model"] = sha256_of(manifest)
    elif Path(options.model.partition(":")[0]).is_file():
        record["model_file"] = sha256_of(Path(options.model.partition(":")[0]))
    location = Path(str(options.data).partition(":")[2])
    if location.is_file():
        record["data_file"] = sha256_of(location)
    return _digest([__version__, record])


def step_key(previous: str, step: Step) -> str:
    return _digest([previous, step.technique, step.options.model_dump()])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
