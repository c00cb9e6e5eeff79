"""Images and targets in tar shards, as webdataset writes them; read where they lie, by place."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ....core.errors import InputError, first_line
from ....core.limits.reading import check_regular
from ....core.types import Preprocessing
from ...collate import Function
from ...images import SUFFIXES, decode
from ...loaders import dataset_split
from ...splits.base import Splits, divided
from ..folders import picture

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 100_000
_TARGETS = ("cls", "json", "txt", "npy")
_LARGEST_MEMBER = 256 << 20
_MOST_CLASSES = 1000


@dataclass
class Shards(Dataset[Any]):
    """Samples of tar files: only places are held, 40 bytes a sample; images are read when they are taken.

    Attributes:
        shards: tar files, not compressed.
        places: (n, 5) int64: shard, offset and size of the image, offset and size of the target.
        image, target: suffixes of the two.
        key: of a target in JSON; a.b for one inside of another.
        size: (height, width) of all images; None keeps their own.
        channels: of an image.
        classes: numbers of the classes, where targets are text.
    """

    shards: list[str]
    places: np.ndarray
    image: str
    target: str
    key: str
    size: tuple[int, int] | None
    channels: int
    classes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def texts(self) -> set[str] | None:
        """The different targets where all are text, at most one more than can be classes; else None."""
        found: set[str] = set()
        for index in range(len(self)):
            target = self._raw(index)
            if not isinstance(target, str):
                return None
            found.add(target)
            if len(found) > _MOST_CLASSES:  # free text, of which the shards are not read to their end
                break
        return found

    def _raw(self, index: int) -> Any:
        shard, _, _, *place = (int(number) for number in self.places[index])
        with open(self.shards[shard], "rb") as file:
            content = _member(file, *place)
        return self._target(content, f"shard {self.shards[shard]!r}, sample {index}")

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """(channels, height, width) uint8, and what the target's member holds."""
        shard, *place = (int(number) for number in self.places[index])
        with open(self.shards[shard], "rb") as file:
            pixels, target = (_member(file, *place[at : at + 2]) for at in (0, 2))
        named = _Named(pixels, f"{self.shards[shard]} sample {index}.{self.image}")
        image = (
            picture(named, self.channels)
            if self.size is None
            else torch.from_numpy(decode(named, self.size, self.channels))
        )
        found = self._target(target, f"shard {self.shards[shard]!r}, sample {index}")
        return image, self.classes.get(found, found) if isinstance(found, str) else found

    def _target(self, content: bytes, where: str) -> Any:
        try:
            if self.target == "cls":
                return int(content)
            if self.target == "npy":
                return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))
            if self.target == "json":
                return _numbers(_inside(json.loads(content), self.key))
            return content.decode().strip()
        except (ValueError, KeyError, TypeError, RecursionError, EOFError) as error:
            raise InputError(f"{where}: .{self.target} holds no target: {first_line(error)[:200]}") from error


def _inside(value: Any, key: str) -> Any:
    """The value of a key, else of its parts one inside of another."""
    if isinstance(value, Mapping) and key not in value and "." in key:
        first, _, rest = key.partition(".")
        return _inside(value[first], rest)
    return value[key]


def _numbers(value: Any) -> Any:
    """A list of numbers as a tensor: of 0 and 1 in whole numbers, or of truth values, labels; else floats."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, list):
        return value
    are_labels = all(isinstance(one, int) and one in (0, 1) for one in value)
    return torch.tensor(value, dtype=torch.int64 if are_labels else torch.float32)


class _Named(io.BytesIO):
    """The bytes of an image, which errors call by a name."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


def wds(
    location: str,
    preprocessing: Preprocessing,
    *,
    val: str | None = None,
    test: str | None = None,
    target: str | None = None,
    key: str = "label",
    collate: Function | None = None,
) -> Splits:
    """Tar shards with an image and a target a sample (KEY.jpg, KEY.cls): FILE.tar, a pattern, or name-{000..012}.tar.

    Args:
        location: shards of train.
        preprocessing: size that images are resized and cropped to, and channels.
        val, test: shards of these splits; without a test a fifth of the samples is held out.
        target: suffix of the targets: cls (a whole number), json, npy or txt; default: the first of them that is there.
            Texts are classes.
        key: of the target in JSON; a.b for one inside of another.
    Raises:
        InputError: if there are no shards, or they are compressed or damaged.
    """
    read = {
        split: (pattern, _read(str(pattern), preprocessing, target, key))
        for split, pattern in (("train", location), ("val", val), ("test", test))
        if pattern is not None
    }
    classes = _name_classes([shards for _, shards in read.values()])
    parts = {
        split: dataset_split(shards, range(len(shards)), repr(f"wds:{pattern}"), collate)
        for split, (pattern, shards) in read.items()
    }
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    if "test" not in parts:
        return divided(parts["train"], len(classes) or None, classes)
    return Splits(parts["train"], parts["test"], parts.get("val"), len(classes) or None, classes=classes)


def _name_classes(parts: Sequence[Shards]) -> tuple[str, ...]:
    """Number the texts that are targets, in all splits alike; none where targets are numbers or free text."""
    found = [part.texts() for part in parts]
    names = sorted({text for texts in found if texts is not None for text in texts})
    if any(texts is None for texts in found) or len(names) > _MOST_CLASSES:
        return ()
    for part in parts:
        part.classes = {name: number for number, name in enumerate(names)}
    return tuple(names)


def _read(pattern: str, preprocessing: Preprocessing, target: str | None, key: str) -> Shards:
    where = f"wds:{pattern}"
    if target is not None and target not in _TARGETS:
        raise InputError(f"data {where!r}: target is one of {', '.join(_TARGETS)}, got {target!r:.60}")
    shards = shards_of(pattern)
    images: list[str] = []
    rows: list[tuple[int, int, int, int, int]] = []
    for number, shard in enumerate(shards):
        for name, members in _samples(shard):
            image = next((suffix for suffix in members if f".{suffix}" in SUFFIXES), None)
            target = target or next((suffix for suffix in _TARGETS if suffix in members), None)
            if image is None or target is None or target not in members:
                wanted = f"an image and one of .{', .'.join(_TARGETS)}" if target is None else f"an image and .{target}"
                raise InputError(f"shard {shard!r}: sample {name!r} holds .{', .'.join(members)}; it needs {wanted}")
            images.append(image)
            rows.append((number, *members[image], *members[target]))
    if not rows:
        raise InputError(f"data {where!r}: its shards hold no samples")
    channels = 1 if preprocessing.channels == 1 else 3
    return Shards(shards, np.array(rows, np.int64), images[0], str(target), key, preprocessing.size, channels)


def shards_of(pattern: str) -> list[str]:
    """The tar files of a pattern: name-{000..012}.tar, with wildcards, a folder of them, or one file.

    Raises:
        InputError: if there is none, or one is missing.
    """
    match = _BRACES.search(pattern)
    if match:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < _MOST_SHARDS:
            raise InputError(
                f"data 'wds:{pattern}': {{{match[1]}..{match[2]}}} counts up, over at most {_MOST_SHARDS} shards"
            )
        names = [_BRACES.sub(f"{number:0{len(match[1])}}", pattern, count=1) for number in range(first, last + 1)]
        return [shard for name in names for shard in shards_of(name)]
    if Path(pattern).is_dir():
        pattern = f"{pattern}/*.tar"
    found = [pattern]
    if any(letter in pattern for letter in "*?["):
        found = sorted(map(str, Path(Path(pattern).anchor).glob(pattern.removeprefix(Path(pattern).anchor))))
    if not found:
        raise InputError(f"data 'wds:{pattern}': no such shards")
    for shard in found:
        check_regular(shard, f"shard {shard!r}")
    return found


def _samples(shard: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(name, {suffix: (offset, bytes)}) of each sample: members in a row with one name up to the first dot."""
    name = ""
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                base, _, suffix = Path(member.name).name.partition(".")
                found = f"{Path(member.name).parent}/{base}"
                if found != name and members:
                    yield name, members
                    members = {}
                name = found
                if member.size > _LARGEST_MEMBER:
                    raise InputError(f"shard {shard!r}: {member.name!r:.80} takes {member.size:,} bytes")
                members[suffix.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"shard {shard!r} is no plain tar file: {first_line(error)[:200]}; unpack .gz, members are read by place"
        ) from error
    if members:
        yield name, members


def _member(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    content: bytes = file.read(size)
    if len(content) != size:
        raise InputError(f"shard {file.name!r} ends in the middle of a sample")
    return content
