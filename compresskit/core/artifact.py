"""Artifacts: a directory of manifest.json and model.safetensors, from which a model loads without pickle."""

from __future__ import annotations

import platform
import shutil
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import edits as edit_records, inputs as example_inputs
from .building import build, parse
from .errors import CompresskitError, InputError
from .files import replacing, write_json
from .manifest import FORMAT_VERSION, LARGEST_MANIFEST_BYTES, check_inside, read_checked, read_json
from .storage import decode_all, encode_all
from .types import Loaded, Preprocessing, call, main_output, to_device
from .weights import check_module, read_safetensors, sha256_of

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
REPORT = "report.json"
_PROBE_VALUES = 64  # output values kept in the manifest
PROBE_TOLERANCE = 1e-3  # of the largest output: kernels differ between machines, structure errors are far larger
_USER_CODE = ("file", "module")


class ProbeMismatch(CompresskitError):
    """A reloaded model computes something else than the saved one: a defect, not the user's mistake."""


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
        files: further files to put beside the weights, name -> path.
        report: content of report.json.
    Returns:
        Size of the weights file in bytes.
    Raises:
        InputError: if the folder exists and force is not given, the disk is full, or the model cannot be rebuilt.
        ProbeMismatch: if the reloaded model's output differs from the module's.
    """
    if loaded.source["kind"] == "pt2":
        raise InputError(f"model {loaded.name!r} comes from a .pt2 file, which is read-only; start from its factory")
    with replacing(folder, force=force) as temporary:
        tensors, ties, hidden = unique_tensors(loaded.module)
        check_module(loaded.module, f"model {loaded.name!r}")
        save_file(encode_all(tensors, loaded.storage), temporary / WEIGHTS)
        manifest = {
            "format_version": FORMAT_VERSION,
            "name": loaded.name,
            "source": _portable_source(loaded.source, temporary),
            "edits": loaded.edits,
            "storage": loaded.storage,
            "tied": ties,
            "non_persistent": hidden,
            "inputs": example_inputs.describe(loaded.example),
            "preprocessing": asdict(loaded.preprocessing),
            "weights_sha256": sha256_of(temporary / WEIGHTS),
            "probe": probe(loaded),
            "versions": versions(),
            "provenance": provenance or {},
        }
        write_json(temporary / MANIFEST, manifest)
        for name, path in (files or {}).items():
            shutil.copyfile(path, temporary / name)
        reloaded = _load(temporary, trust_source=True, given=loaded.source)
        # a model whose own random draws reach the output has no probe to compare
        if manifest["probe"]["values"] and not _bit_equal(loaded, reloaded):
            raise ProbeMismatch(f"model {loaded.name!r}: the reloaded artifact computes another output than the model")
        size_bytes = (temporary / WEIGHTS).stat().st_size
        if report is not None:
            write_json(temporary / REPORT, report)
    return size_bytes


def load(folder: str | Path, *, trust_source: bool = False, source: str | None = None, check: bool = True) -> Loaded:
    """Load an artifact: build the source, replay the edits, read the weights, compare the probe.

    Args:
        folder: the artifact directory.
        trust_source: run the user code that the artifact carries, if it does.
        source: user code named again (`path/net.py:factory`), run instead of the carried copy.
        check: compare the weights' hash and the probe output.
    Raises:
        InputError: if anything is missing, damaged, or needs trust that was not given.
    """
    given = parse(source, {}) if source else None
    loaded = _load(Path(folder), trust_source=trust_source, given=given, check_hash=check)
    if check:
        difference = probe_difference(loaded, read_manifest(folder)["probe"])
        if not difference <= PROBE_TOLERANCE:  # NaN is no agreement
            raise InputError(
                f"artifact {str(folder)!r}: the output differs from the recorded probe by {difference:.2g} "
                "of its largest value; the source it was made from has changed"
            )
    return loaded


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artifact directory, checked: its format version, its types and sizes, its edits.

    Raises:
        InputError: if the folder is no artifact, or the manifest says what none may say.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{str(folder)!r} is not an artifact: it holds no {MANIFEST}")
    manifest = read_checked(path)
    edit_records.check(manifest["edits"], repr(str(path)))
    return manifest


def read_report(folder: str | Path) -> dict[str, Any] | None:
    """The report of an artifact directory, if it has one."""
    path = Path(folder) / REPORT
    return read_json(path, repr(str(path)), LARGEST_MANIFEST_BYTES) if path.is_file() else None


def _load(folder: Path, *, trust_source: bool, given: dict[str, Any] | None = None, check_hash: bool = True) -> Loaded:
    manifest = read_manifest(folder)
    weights_path = folder / WEIGHTS
    if not weights_path.is_file():
        raise InputError(f"artifact {str(folder)!r} lacks {WEIGHTS}")
    check_inside(folder, WEIGHTS)
    if check_hash and sha256_of(weights_path) != manifest["weights_sha256"]:
        raise InputError(f"{str(weights_path)!r} does not match the manifest's sha256: it was changed or is damaged")
    record = _trusted_source(manifest, folder, trust_source, given)
    tensors = decode_all(read_safetensors(weights_path))
    try:
        with torch.device("meta"):
            module = edit_records.replay(build(record), manifest["edits"])
        _fill(module, tensors, manifest, folder)
        complete = not _meta_tensors(module)
    except (NotImplementedError, RuntimeError):  # a factory that computes with values while building
        complete = False
    if not complete:
        module = edit_records.replay(build(record), manifest["edits"])
        _fill(module, tensors, manifest, folder)
    check_module(module, f"artifact {str(folder)!r}")
    return Loaded(
        module.eval(),
        record,
        example_inputs.make(manifest["inputs"]),
        manifest["edits"],
        manifest["storage"],
        _preprocessing(manifest["preprocessing"]),
        manifest["name"],
    )


def _preprocessing(record: dict[str, Any]) -> Preprocessing:
    size = record.get("size")
    return Preprocessing(
        tuple(record["mean"]), tuple(record["std"]), tuple(size) if size else None, record.get("channels")
    )


def _portable_source(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A file source is copied into the artifact, so that no path in a manifest leaves its folder."""
    if record["kind"] != "file":
        return record
    name = Path(record["path"]).name
    if Path(record["path"]).resolve() != (folder / name).resolve():
        shutil.copyfile(record["path"], folder / name)
    return {**record, "path": name, "sha256": sha256_of(folder / name)}


def _trusted_source(manifest: dict, folder: Path, trust_source: bool, given: dict | None) -> dict[str, Any]:
    record = manifest["source"]
    if not isinstance(record, dict) or record.get("kind") not in _USER_CODE:
        return record
    if given:
        same = given.get("factory") == record["factory"]
        if given["kind"] not in _USER_CODE or not same:
            raise InputError(
                f"artifact {str(folder)!r} was made from {_source_string(record)!r}; the given source is another"
            )
        return {**record, **{key: given[key] for key in ("kind", "path", "module") if key in given}}
    if not trust_source:
        raise InputError(
            f"artifact {str(folder)!r} runs the code {_source_string(record)!r}; "
            "name it with --source, or say --trust-source"
        )
    if record["kind"] == "module":
        return record
    name = str(record["path"])
    check_inside(folder, name)
    if sha256_of(folder / name) != record.get("sha256"):
        raise InputError(f"{str(folder / name)!r} does not match the manifest's sha256: it was changed")
    return {**record, "path": str(folder / name)}


def _source_string(record: dict[str, Any]) -> str:
    return f"{record.get('path') or record.get('module')}:{record.get('factory')}"


def unique_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Every tensor once, the ties (other name -> kept name), and the names of non-persistent buffers."""
    persistent = set(module.state_dict())
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    kept: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for name, tensor in named:
        if id(tensor) in kept:
            ties[name] = kept[id(tensor)]
            continue
        kept[id(tensor)] = name
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    return tensors, ties, [name for name in tensors if name not in persistent]


def _fill(module: nn.Module, tensors: dict[str, Tensor], manifest: dict[str, Any], folder: Path) -> None:
    """Put the file's tensors into the module, strictly, and tie what was tied."""
    ties = manifest["tied"]
    expected = {name: (owner, leaf) for name, owner, leaf in _slots(module)}
    missing = sorted(set(expected) - set(tensors) - set(ties))
    unexpected = sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise InputError(
            f"artifact {str(folder)!r}: missing tensors {missing[:3]}, unexpected tensors {unexpected[:3]}"
        )
    filled: dict[str, Any] = {}
    for name, (owner, leaf) in expected.items():
        value = tensors[ties.get(name, name)].clone()  # aligned memory: kernels then match bit for bit
        old = owner._parameters[leaf] if leaf in owner._parameters else owner._buffers[leaf]
        if old.shape != value.shape:
            raise InputError(
                f"artifact {str(folder)!r}: {name} has shape {list(value.shape)}, the edits say {list(old.shape)}"
            )
        if leaf in owner._parameters:
            shared = filled.get(ties.get(name, name))
            owner._parameters[leaf] = (
                shared if shared is not None else nn.Parameter(value, old.requires_grad and value.is_floating_point())
            )
            filled.setdefault(ties.get(name, name), owner._parameters[leaf])
        else:
            owner._buffers[leaf] = filled.setdefault(ties.get(name, name), value)


def _slots(module: nn.Module):
    """(full name, owning module, leaf name) of every parameter and buffer, persistent or not."""
    for path, owner in module.named_modules():
        for leaf in [*owner._parameters, *owner._buffers]:
            if (owner._parameters.get(leaf) if leaf in owner._parameters else owner._buffers[leaf]) is not None:
                yield (f"{path}.{leaf}" if path else leaf), owner, leaf


def _meta_tensors(module: nn.Module) -> bool:
    """Whether a module still holds meta tensors, plain attributes included."""
    owners = list(module.modules())
    values = [
        value
        for owner in owners
        for value in [*vars(owner).values(), *owner._parameters.values(), *owner._buffers.values()]
    ]
    return any(isinstance(value, Tensor) and value.is_meta for value in values)


@torch.no_grad()
def probe(loaded: Loaded) -> dict[str, Any]:
    """Output on the example input: the first values, the norm, and the shape.

    Without values where there is nothing to compare: the model draws at random, or its output is not finite.
    """
    first, second = (_real(_output(loaded)) for _ in range(2))
    if not torch.equal(first, second) or not bool(torch.isfinite(first).all()):
        return {"values": [], "norm": 0.0, "shape": list(first.shape)}
    return {
        "values": first.reshape(-1)[:_PROBE_VALUES].tolist(),
        "norm": float(first.norm()),
        "shape": list(first.shape),
    }


def probe_difference(loaded: Loaded, recorded: dict[str, Any]) -> float:
    """Largest difference from a recorded probe, relative to its largest value; infinite if shapes differ."""
    if not recorded["values"]:
        return 0.0
    output = _output(loaded)
    # older releases recorded the real part of a complex output alone
    old_form = output.is_complex() and list(output.shape) == recorded["shape"]
    output = output.real.double() if old_form else _real(output)
    if list(output.shape) != recorded["shape"]:
        return float("inf")
    values = torch.tensor(recorded["values"], dtype=torch.float64)
    scale = max(float(values.abs().max()), 1e-12)
    found = output.reshape(-1)[: len(values)].cpu()
    by_value = float((found - values).abs().max()) / scale
    by_norm = abs(float(output.norm()) - recorded["norm"]) / max(recorded["norm"], 1e-12)
    return max(by_value, by_norm)


@torch.no_grad()
def _output(loaded: Loaded) -> Tensor:
    module = loaded.module.eval()
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    return main_output(call(module, to_device(loaded.example, device)))


def _real(output: Tensor) -> Tensor:
    """An output in float64; a complex one gets a last dimension of real and imaginary part."""
    return (torch.view_as_real(output.resolve_conj()) if output.is_complex() else output).double()


def _bit_equal(first: Loaded, second: Loaded) -> bool:
    device = next((tensor.device for tensor in first.module.parameters()), torch.device("cpu"))
    second.module.to(device)
    return torch.equal(_output(first), _output(second))


def versions() -> dict[str, str]:
    """Versions of everything that decides what an artifact computes."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "torch": torch.__version__}
    for package in ("compresskit", "torchvision", "timm", "transformers", "safetensors", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
