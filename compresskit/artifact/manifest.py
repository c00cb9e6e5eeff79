"""The manifest of an artifact as strangers may write it: typed, bounded, and checked before anything is built from it.

A manifest is data: it names a model of a library or of this package and edits from a table; it never imports anything,
and no path in it leaves its folder. Keys that a later release adds are read past.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..core.errors import InputError
from ..core.limits.json_files import LARGEST_MANIFEST_BYTES, read_json
from ..core.manifest.edit_records import MOST_DIMENSIONS, Name, Shape, Size, explain
from .codecs.storage import CODECS

FORMAT_VERSION = 1
_MOST_EDITS = 100_000
_MOST_NAMES = 1_000_000
_MOST_PROBE_VALUES = 4096
_LARGEST_SIDE = 1 << 16  # pixels
LARGEST_EXAMPLE = 1 << 28  # elements of the example inputs together

_Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]
_Number = float | Literal["inf", "-inf", "nan"]  # JSON has none of the last three


#: keys that a kind of source cannot be built without
_NEEDS = {
    "builtin": ("name", "args"),
    "torchvision": ("name", "args"),
    "timm": ("name", "args"),
    "hf": ("name", "class", "config"),
    "file": ("path", "factory", "args"),
    "module": ("module", "factory", "args"),
    "memory": ("name",),
}


def _codec(name: str) -> str:
    return CODECS.check(name)


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class Source(_Record):
    """What is built: a kind, and what the kind takes; `library_args` checks the arguments of libraries."""

    kind: Literal["builtin", "torchvision", "timm", "hf", "file", "module", "memory"]
    name: Name | None = None
    args: dict[Name, Any] | None = None
    path: Name | None = None
    module: Name | None = None
    factory: Name | None = None
    sha256: str | None = None
    config: dict[str, Any] | None = None

    def lacks(self) -> list[str]:
        """Keys that are missing for this kind."""
        given = {**self.model_dump(exclude_none=True), **(self.model_extra or {})}
        return [key for key in _NEEDS[self.kind] if given.get(key) is None]


class PreprocessingRecord(_Record):
    """Normalization and size of images."""

    mean: Annotated[list[float], Field(max_length=_LARGEST_SIDE)] = []
    std: Annotated[list[float], Field(max_length=_LARGEST_SIDE)] = []
    size: Annotated[list[Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]], Field(min_length=2, max_length=2)] | None = (
        None
    )
    channels: Annotated[int, Field(ge=1, le=_LARGEST_SIDE)] | None = None


class OutputRecord(_Record):
    """Shape and norm of one tensor of a model's output."""

    norm: Annotated[float, Field(ge=0)]  # of the finite values
    shape: Annotated[list[Size], Field(max_length=MOST_DIMENSIONS)]


class ProbeRecord(OutputRecord):
    """What the model computed on its example when it was saved; further outputs by their path."""

    values: Annotated[list[_Number], Field(max_length=_MOST_PROBE_VALUES)]
    outputs: Annotated[dict[str, OutputRecord], Field(max_length=_MOST_PROBE_VALUES)] = {}


class TensorDescription(_Record):
    """One example input."""

    shape: Shape
    dtype: Annotated[str, Field(pattern=r"^[a-z]+[a-z0-9_]*$", max_length=32)]
    high: int | float | None = None
    low: int | float | None = None


class Manifest(_Record):
    """The keys that every release writes."""

    name: Name
    source: Source
    edits: Annotated[list[dict[str, Any]], Field(max_length=_MOST_EDITS)]
    storage: Annotated[dict[Name, Annotated[str, AfterValidator(_codec)]], Field(max_length=_MOST_NAMES)]
    tied: Annotated[dict[Name, Name], Field(max_length=_MOST_NAMES)]
    non_persistent: Annotated[list[Name], Field(max_length=_MOST_NAMES)]
    inputs: dict[str, Any]
    preprocessing: PreprocessingRecord
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    probe: ProbeRecord
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    unset_buffers: Annotated[list[Name], Field(max_length=_MOST_NAMES)] = []
    built_on: Annotated[str, Field(max_length=32)] | None = None
    #: sha256 of the user's own files that edits name, by `file.py:name`
    code: Annotated[dict[Name, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]], Field(max_length=_MOST_NAMES)] = {}
    provenance: dict[str, Any] = {}
    files: Annotated[list[Name], Field(max_length=_MOST_NAMES)] | None = None  # further ones beside the weights


def read_checked(path: Path) -> dict[str, Any]:
    """The content of a manifest file, of this format and sound, with the defaults of optional keys filled in.

    Raises:
        InputError: on one line, naming the file, the key and what is wrong.
    """
    where = repr(str(path))
    manifest = read_json(path, where, LARGEST_MANIFEST_BYTES)
    if not isinstance(manifest, dict) or type(manifest.get("format_version")) is not int:
        found = manifest.get("format_version") if isinstance(manifest, dict) else None
        raise InputError(f"{where} has format version {str(found)[:40]!r}; this release reads {FORMAT_VERSION}")
    if manifest["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{where} has format version {manifest['format_version']}; this release reads {FORMAT_VERSION}"
        )
    missing = [key for key, field in Manifest.model_fields.items() if field.is_required() and key not in manifest]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}")
    try:
        checked = Manifest.model_validate(manifest)
        elements = _described_elements(manifest["inputs"])
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error)}") from None
    except ValueError as error:
        raise InputError(f"{where}: inputs: {error}") from None
    if checked.source.lacks():
        raise InputError(f"{where}: a source of kind {checked.source.kind!r} lacks {', '.join(checked.source.lacks())}")
    if elements > LARGEST_EXAMPLE:
        raise InputError(f"{where}: inputs of {elements:,} elements are more than {LARGEST_EXAMPLE:,}")
    return {
        **manifest,
        "preprocessing": checked.preprocessing.model_dump(),
        "seed": checked.seed,
        "unset_buffers": checked.unset_buffers,
        "built_on": checked.built_on,
        "code": checked.code,
        "provenance": checked.provenance,
    }


def _described_elements(description: Any) -> int:
    """Elements of described example inputs."""
    if not isinstance(description, dict):
        raise ValueError(f"a {type(description).__name__} describes no input")
    for key, kind in (("mapping", dict), ("tuple", list), ("list", list)):
        if key in description:
            inner = description[key]
            if not isinstance(inner, kind):
                raise ValueError(f"{key} must hold a {'mapping' if kind is dict else 'list'}")
            values = inner.values() if isinstance(inner, dict) else inner
            return sum([_described_elements(value) for value in values])
    if "shape" not in description:  # a kind of input that a later release describes; `inputs.make` reads or refuses it
        return 0
    return math.prod(TensorDescription.model_validate(description).shape)


def check_name(manifest: dict[str, Any], where: str, *, trusted: bool) -> None:
    """Refuse a transformers source whose name is a path outside of the artifact.

    The name is never followed: the configuration is in the manifest. Earlier releases wrote the folder that a model
    came from as its name, and the same into the provenance.

    Raises:
        InputError: if the name leads elsewhere and the provenance does not say so too.
    """
    name = manifest["source"]["name"]
    leads_out = name.startswith(("/", "~", "\\")) or ".." in Path(name).parts
    recorded = manifest["provenance"].get("model") == f"hf:{name}"
    if leads_out and not recorded and not trusted:
        raise InputError(f"{where}: the source's name {name[:80]!r} is a path outside of the artifact")


def check_ties(manifest: dict[str, Any], tensors: Collection[str], where: str) -> None:
    """Refuse ties to tensors that the weights file does not hold."""
    for name, kept in manifest["tied"].items():
        if kept not in tensors:
            raise InputError(f"{where}: {name[:80]!r} is tied to {kept[:80]!r}, which the weights file does not hold")


def check_inside(folder: Path, name: str) -> Path:
    """The path of a file that lies in an artifact's folder, neither a path nor a link leading out of it.

    Raises:
        InputError: if it leads elsewhere or is no regular file.
    """
    path = folder / name
    outside = Path(name).name != name or "\0" in name or not re.fullmatch(r"[^/\\]+", name)
    if outside or not path.is_file() or path.resolve().parent != folder.resolve():
        raise InputError(f"artifact {str(folder)!r}: {name!r} leaves the artifact's folder or is missing")
    return path
