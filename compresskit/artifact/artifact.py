"""Artifacts: a directory of manifest.json and model.safetensors, from which a model loads without pickle."""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..core.errors import ForwardError, InputError
from ..core.limits.json_files import LARGEST_MANIFEST_BYTES, read_json
from ..core.manifest.preprocessing import declared_normalization
from ..core.tensors.copying import copy_module
from ..core.tensors.devices import on_cpu
from ..core.types import Loaded, Preprocessing
from ..core.user_code.in_memory import MemorySource
from ..model import example_inputs
from ..model.builders import USER_CODE, parse
from ..model.checkpoints.weights import check_module, read_safetensors, sha256_of
from ..model.libraries.companions import companions
from ..model.strings import MANIFEST, refuse_foreign
from . import edits as edit_records
from .codecs.storage import decode_all, encode_all
from .disk.files import copy_into, replacing, write_json
from .manifest import FORMAT_VERSION, check_inside, check_name, check_ties, read_checked
from .module_state import ModuleState, state_of, unique_tensors
from .probing import PROBE_TOLERANCE, probe, probe_difference
from .rebuilding import META, NotRepeatable, ProbeMismatch, matching_rebuild, rebuilds

WEIGHTS = "model.safetensors"
REPORT = "report.json"
_named: dict[tuple[Any, ...], dict[str, Any]] = {}  # code that the user named in this process -> where it lies
__all__ = [
    "MANIFEST",
    "PROBE_TOLERANCE",
    "REPORT",
    "WEIGHTS",
    "NotRepeatable",
    "ProbeMismatch",
    "load",
    "probe",
    "probe_difference",
    "read_manifest",
    "read_report",
    "save",
    "unique_tensors",
    "versions",
]


def save(
    loaded: Loaded,
    folder: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
    force: bool = False,
    files: dict[str, Path] | None = None,
    report: dict[str, Any] | None = None,
) -> int:
    """Write an artifact: to a temporary sibling first, reloaded and compared there, then renamed.

    Args:
        loaded: the model to save.
        folder: the directory to create.
        provenance: JSON-able record of what made it (command, options, seed).
        force: replace an existing directory.
        files: further files and folders to put beside the weights, name -> path.
        report: content of report.json.
    Returns:
        Size of the weights file in bytes.
    Raises:
        InputError: if the folder exists and force is not given, the disk is full, or the model cannot be rebuilt.
        ProbeMismatch: if the reloaded model's outputs differ from the module's.
    """
    check_source(loaded)
    beside = {**{name: path for name, path in loaded.companions.items() if path.is_file()}, **(files or {})}
    # what is recorded of the outputs is compared wherever the artifact is loaded, which is on the CPU at first
    with on_cpu(loaded.module), replacing(folder, force=force) as temporary:
        state = state_of(loaded.module)
        check_module(loaded.module, f"model {loaded.name!r}")
        save_file(encode_all(dict(state.tensors), loaded.storage), temporary / WEIGHTS)
        manifest = {
            "format_version": FORMAT_VERSION,
            "name": loaded.name,
            "source": _portable_source(loaded.source, temporary),
            "edits": loaded.edits,
            "code": edit_records.code_of(loaded.edits),
            "storage": loaded.storage,
            "seed": loaded.seed,
            "tied": state.tied,
            "non_persistent": state.non_persistent,
            "unset_buffers": state.unset,
            "inputs": example_inputs.describe(loaded.example),
            "preprocessing": asdict(loaded.preprocessing),
            "weights_sha256": sha256_of(temporary / WEIGHTS),
            "probe": probe(loaded),
            "versions": versions(),
            "provenance": provenance or {},
            "files": sorted(beside),
        }
        write_json(temporary / MANIFEST, manifest)
        for name, path in beside.items():
            copy_into(path, temporary / name)
        _, _, attempts = _open(temporary, trust_source=True, given=loaded.source, where=f"model {loaded.name!r}")
        manifest["built_on"], _ = matching_rebuild(loaded, attempts)
        write_json(temporary / MANIFEST, manifest)
        size_bytes = (temporary / WEIGHTS).stat().st_size
        if report is not None:
            write_json(temporary / REPORT, report)
    return size_bytes


def check_source(loaded: Loaded) -> None:
    """Raises InputError if no artifact can be made of a model, whatever is done to it."""
    if loaded.source["kind"] == "pt2":
        raise InputError(f"model {loaded.name!r} comes from a .pt2 file, which is read-only; start from its factory")


def load(
    folder: str | Path,
    *,
    trust_source: bool = False,
    source: str | None = None,
    module: nn.Module | None = None,
    check: bool = True,
) -> Loaded:
    """Load an artifact: build the source, replay the edits, read the weights, compare the probe.

    Args:
        folder: the artifact directory.
        trust_source: run the user code that the artifact carries, if it does.
        source: user code named again (`path/net.py:factory`), run instead of the carried copy.
        module: the model before its edits, in the place of what the artifact's source builds; it is left as it is.
        check: compare the weights' hash and the probe output.
    Raises:
        InputError: if anything is missing, damaged, or needs trust that was not given.
    """
    if module is not None and source:
        raise InputError(f"artifact {str(folder)!r}: source {source!r} would be ignored: a module in memory is given")
    given = MemorySource(copy_module(module)) if module is not None else parse(source, {}) if source else None
    manifest, record, attempts = _open(Path(folder), trust_source=trust_source, given=given, check_hash=check)
    difference = math.inf
    for device, module in attempts(device=manifest["built_on"]):
        check_module(module, f"artifact {str(folder)!r}")
        loaded = _loaded(module, record, manifest)
        try:
            difference = probe_difference(loaded, manifest["probe"]) if check else 0.0
        except ForwardError:
            if device != META:
                raise
        if difference <= PROBE_TOLERANCE:
            loaded.companions = companions(Path(folder)) if record["kind"] == "hf" else {}
            return loaded
    raise InputError(
        f"artifact {str(folder)!r}: the output differs from the recorded probe by {difference:.2g} "
        "of its largest value; the source it was made from has changed"
    )


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artifact directory, checked: its format version, its types and sizes, its edits.

    Raises:
        InputError: if the folder is no artifact, or the manifest says what none may say.
    """
    refuse_foreign(Path(folder))
    path = Path(folder) / MANIFEST
    manifest = read_checked(path)
    edit_records.check(manifest["edits"], repr(str(path)))
    return manifest


def read_report(folder: str | Path) -> dict[str, Any] | None:
    """The report of an artifact directory, if it has one."""
    path = Path(folder) / REPORT
    return read_json(path, repr(str(path)), LARGEST_MANIFEST_BYTES) if path.is_file() else None


def _open(
    folder: Path,
    *,
    trust_source: bool,
    given: dict[str, Any] | None = None,
    check_hash: bool = True,
    where: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any], Callable[..., Iterator[tuple[str, nn.Module]]]]:
    """The manifest, the source record to run, and `rebuilds` of the two with the weights."""
    manifest = read_manifest(folder)
    weights_path = folder / WEIGHTS
    if not weights_path.is_file():
        raise InputError(f"artifact {str(folder)!r} lacks {WEIGHTS}")
    check_inside(folder, WEIGHTS)
    if check_hash and sha256_of(weights_path) != manifest["weights_sha256"]:
        raise InputError(f"{str(weights_path)!r} does not match the manifest's sha256: it was changed or is damaged")
    record = _trusted_source(manifest, folder, trust_source, given)
    if trust_source:
        edit_records.trust(manifest["edits"], manifest["code"])
    tensors = decode_all(read_safetensors(weights_path))
    check_ties(manifest, tensors, f"artifact {str(folder)!r}")
    state = ModuleState(tensors, manifest["tied"], manifest["non_persistent"], manifest["unset_buffers"])
    where = where or f"artifact {str(folder)!r}"
    seed = manifest["seed"]
    return manifest, record, partial(rebuilds, record, manifest["edits"], state, seed=seed, where=where)


def _loaded(module: nn.Module, record: dict[str, Any], manifest: dict[str, Any]) -> Loaded:
    return Loaded(
        module,
        record,
        example_inputs.make(manifest["inputs"]),
        manifest["edits"],
        manifest["storage"],
        _preprocessing(manifest["preprocessing"]),
        manifest["name"],
        seed=manifest["seed"],
    )


def _preprocessing(record: dict[str, Any]) -> Preprocessing:
    # earlier releases recorded whatever attributes of these names a module had
    mean, std = declared_normalization(record["mean"], record["std"], "the manifest")
    return Preprocessing(mean, std, tuple(record["size"]) if record["size"] else None, record["channels"])


def _portable_source(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A file is copied into the artifact and a folder called by its name alone: no path leaves the artifact."""
    if record["kind"] == "hf" and Path(record["name"]).is_dir():
        return {**record, "name": Path(record["name"]).resolve().name}
    if record["kind"] != "file":
        return record
    name = Path(record["path"]).name
    if Path(record["path"]).resolve() != (folder / name).resolve():
        shutil.copyfile(record["path"], folder / name)
    return {**record, "path": name, "sha256": sha256_of(folder / name)}


def _trusted_source(manifest: dict, folder: Path, trust_source: bool, given: dict | None) -> dict[str, Any]:
    record = manifest["source"]
    if isinstance(given, MemorySource):
        return given
    if record["kind"] == "hf":
        check_name(manifest, f"artifact {str(folder)!r}", trusted=trust_source or given is not None)
        return {**record, "carried": True}
    if record["kind"] not in USER_CODE:
        return record
    if record["kind"] == "memory":
        return _named_for_memory(record, folder, given)
    if given:
        same = given.get("factory") == record["factory"]
        if given["kind"] not in USER_CODE or not same:
            raise InputError(
                f"artifact {str(folder)!r} was made from {_source_string(record)!r}; the given source is another"
            )
        note_named(given)
        return {**record, **{key: given[key] for key in ("kind", "path", "module") if key in given}}
    named = {} if trust_source else _named.get(_code_of(record), {})
    if "module" in named or ("path" in named and _hash_of(named["path"]) == record["sha256"]):
        return {**record, **named}
    if not trust_source:
        copy = "the artifact's own copy" if record["kind"] == "file" else "it"
        raise InputError(
            f"artifact {str(folder)!r} runs the code {_source_string(record)!r}; name that again with --source "
            f"{_source_string(record)}, or say --trust-source to run {copy}"
        )
    if record["kind"] == "module":
        return record
    name = str(record["path"])
    check_inside(folder, name)
    if sha256_of(folder / name) != record.get("sha256"):
        raise InputError(f"{str(folder / name)!r} does not match the manifest's sha256: it was changed")
    return {**record, "path": str(folder / name)}


def note_named(record: dict[str, Any]) -> None:
    """Remember that the user named a factory in this process, so that artifacts of the same code may call it, too."""
    if record["kind"] == "file":
        record = {**record, "sha256": _hash_of(record["path"])}
    if record["kind"] in ("file", "module"):
        _named[_code_of(record)] = {key: record[key] for key in ("path", "module") if key in record}


def _code_of(record: dict[str, Any]) -> tuple[Any, ...]:
    return record["kind"], record.get("sha256", record.get("module")), record["factory"]


def _hash_of(path: str) -> str | None:
    return sha256_of(Path(path)) if Path(path).is_file() else None


def _named_for_memory(record: dict[str, Any], folder: Path, given: dict[str, Any] | None) -> dict[str, Any]:
    if given is None:
        raise InputError(
            f"artifact {str(folder)!r} was made from a module in memory ({record['name']}), which it does not hold: "
            "give it again with compresskit.load(FOLDER, model=MODULE), or name code that builds it with --source"
        )
    if given["kind"] not in USER_CODE:
        raise InputError(
            f"artifact {str(folder)!r} was made from a module in memory ({record['name']}); name code that builds it, "
            f"e.g. path/net.py:factory, not {_source_string(given)!r}"
        )
    return given


def _source_string(record: dict[str, Any]) -> str:
    return f"{record.get('path') or record.get('module')}:{record.get('factory')}"


def versions() -> dict[str, str]:
    """Versions of everything that decides what an artifact computes."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "torch": torch.__version__}
    for package in ("compresskit", "torchvision", "timm", "transformers", "safetensors", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
