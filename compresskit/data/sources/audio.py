"""Sounds of classes in folders of WAV files."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...core.errors import InputError, first_line
from ...core.limits.reading import check_regular
from ...core.types import Preprocessing
from ..loaders import dataset_split
from ..splits.base import Splits, divided
from .folders import directory, joined_notes, named_splits, shown, split_folders, whole

_MOST_SECONDS = 3600


@dataclass
class Sounds(Dataset[Any]):
    """Mono sounds of one rate and length.

    Attributes:
        files: (file, class).
        rate: samples a second.
        samples: of each sound; longer ones are cut, shorter ones end in zeros.
        form: "channel" for (1, samples), "flat" for (samples,).
    """

    files: list[tuple[Path, int]]
    rate: int
    samples: int
    form: str

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Samples in [-1, 1] and a class."""
        path, label = self.files[index]
        rate, sound = read_wav(path)
        if rate != self.rate:
            sound = resampled(sound, rate, self.rate)
        fitted = np.zeros(self.samples, np.float32)
        fitted[: len(sound[: self.samples])] = sound[: self.samples]
        values = torch.from_numpy(fitted)
        return (values[None] if self.form == "channel" else values), label


def audio(
    location: str,
    preprocessing: Preprocessing,
    *,
    rate: int | None = None,
    seconds: float | None = None,
    form: str = "channel",
    max_bad: int = 0,
) -> Splits:
    """WAV files as DIR/SPLIT/CLASS/FILE.wav, or DIR/CLASS/FILE.wav with a fifth held out as test; classes by name.

    Args:
        location: DIR.
        preprocessing: of images, which there are none of.
        rate: samples a second that sounds are resampled to; default: that of the first file.
        seconds: length that sounds are cut or filled up to; default: that of the first file.
        form: channel for inputs (batch, 1, samples), flat for (batch, samples).
        max_bad: files of each split that may fail to decode; they are left out and named.
    Raises:
        InputError: if there are no files, or more fail.
    """
    where = f"audio:{location}"
    whole(max_bad, "max_bad", where)
    if rate is not None:
        whole(rate, "rate", where, 1)
    if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds <= _MOST_SECONDS):
        raise InputError(
            f"data {where!r}: seconds is a number above 0 and at most {_MOST_SECONDS}, got {seconds!r:.60}"
        )
    if form not in ("channel", "flat"):
        raise InputError(f"data {where!r}: form is channel or flat, got {form!r:.60}")
    root = directory(location)
    folders = split_folders(root)
    classes = sorted(entry.name for entry in (folders["train"] or root).iterdir() if entry.is_dir())
    bad: list[str] = []
    found = {
        name: _files(folder, classes, max_bad, bad)
        for name, folder in ({"all": root} if folders["train"] is None else folders).items()
        if folder is not None
    }
    own_rate, first = read_wav(next(iter(found.values()))[0][0])
    samples = round((len(first) / own_rate if seconds is None else seconds) * (rate or own_rate))
    parts = {
        name: dataset_split(sounds, range(len(sounds)), repr(where))
        for name, files in found.items()
        for sounds in [Sounds(files, rate or own_rate, max(samples, 1), form)]
    }
    if "all" in parts:
        splits = divided(parts["all"], len(classes), tuple(classes))
    else:
        train, test, val, note = named_splits(parts, f"data directory {location!r}")
        splits = Splits(train, test, val, len(classes), note, tuple(classes))
    splits.note = joined_notes(splits.note, shown(bad, "sounds are left out"))
    return splits


def read_wav(path: Path) -> tuple[int, np.ndarray]:
    """Samples a second, and samples in [-1, 1], the mean of all channels, (samples,) float32.

    Raises:
        InputError: if it is no WAV file of whole numbers or floats, or holds no sound.
    """
    from scipy.io import wavfile  # takes half a second

    what = f"sound {str(path)!r}"
    check_regular(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no samples
            rate, values = wavfile.read(path)
    except Exception as error:  # struct, ValueError, EOFError ... on damaged files
        raise InputError(f"{what} cannot be read: {first_line(error)[:200] or type(error).__name__}") from error
    if not values.size or rate < 1:
        raise InputError(f"{what} holds no samples")
    if values.dtype.kind == "u":  # 8 bits around 128
        sound = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        sound = values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    else:
        sound = values.astype(np.float32)
    return int(rate), sound.mean(1) if sound.ndim == 2 else sound


def resampled(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples of a sound at another rate, (samples,) float32."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return np.asarray(resample_poly(sound, wanted // common, rate // common), np.float32)


def _files(folder: Path, classes: list[str], max_bad: int, bad: list[str]) -> list[tuple[Path, int]]:
    files = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).rglob("*"))
             if path.suffix.lower() == ".wav"]  # fmt: skip
    if max_bad:
        problems = [_problem(path) for path, _ in files]
        lines = [line for line in problems if line]
        if len(lines) > max_bad:
            raise InputError(f"{len(lines)} sounds cannot be read, and max_bad is {max_bad}; the first: {lines[0]}")
        bad += lines
        files = [file for file, line in zip(files, problems, strict=True) if not line]
    if not files:
        raise InputError(f"{str(folder)!r} holds no sounds (CLASS/FILE.wav)")
    return files


def _problem(path: Path) -> str:
    try:
        read_wav(path)
    except InputError as error:
        return str(error)
    return ""
