"""WAV files of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.sources.audio import read_wav


def tone(hertz, rate, seconds=0.1):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def write(folder, rate=8000):
    for split in ("train", "test"):
        for label, name in enumerate(("high", "low")):
            (folder / split / name).mkdir(parents=True)
            for number in range(12):
                sound = (tone((2000, 200)[label], rate) * 32000).astype(np.int16)
                wavfile.write(folder / split / name / f"{number:02}.wav", rate, sound)


def test_sounds_are_resampled_cut_and_filled(tmp_path):
    write(tmp_path)
    data = open_data(f"audio:{tmp_path}")
    inputs, targets = next(iter(data.batches("test", batch_size=24)))
    assert inputs.shape == (24, 1, 800) and data.classes == ("high", "low")
    expected = torch.from_numpy(tone(2000, 8000)).float() * 32000 / 32768
    torch.testing.assert_close(inputs[0, 0], expected, atol=1e-4, rtol=0)
    slow = open_data(f"audio:{tmp_path}", args={"rate": 4000, "seconds": 0.2, "form": "flat"})
    inputs, targets = next(iter(slow.batches("test", batch_size=24)))
    assert inputs.shape == (24, 800) and bool((inputs[:, 401:] == 0).all())
    low = inputs[targets == 1][0, 50:350]
    torch.testing.assert_close(low, torch.from_numpy(tone(200, 4000)).float()[50:350], atol=0.05, rtol=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_every_kind_of_sample_is_between_minus_one_and_one(tmp_path, dtype):
    sound = np.stack([tone(100, 1000), tone(100, 1000)], 1)
    if dtype is np.uint8:
        values = (sound * 127 + 128).astype(dtype)
    else:
        values = sound.astype(dtype) if dtype is np.float32 else (sound * np.iinfo(dtype).max).astype(dtype)
    wavfile.write(tmp_path / "a.wav", 1000, values)
    rate, found = read_wav(tmp_path / "a.wav")
    assert rate == 1000 and found.shape == (100,) and found.dtype == np.float32
    np.testing.assert_allclose(found, tone(100, 1000), atol=0.02)


def test_damaged_files_are_named_and_left_out(tmp_path):
    write(tmp_path)
    (tmp_path / "train" / "low" / "03.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="03.wav' cannot be read"):
        list(open_data(f"audio:{tmp_path}").batches("train", batch_size=24))
    data = open_data(f"audio:{tmp_path}", args={"max_bad": 1})
    assert data.size("train") + data.size("val") == 23 and "03.wav" in data.note
    (tmp_path / "train" / "low" / "04.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="2 sounds cannot be read, and max_bad is 1"):
        open_data(f"audio:{tmp_path}", args={"max_bad": 1})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"rate": 0}, "rate must be a whole number from 1 on, got 0"),
        ({"seconds": -1}, "seconds is a number above 0"),
        ({"form": "stereo"}, "form is channel or flat, got 'stereo'"),
        ({}, "holds no sounds"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, args, message):
    with pytest.raises(InputError, match=message):
        open_data(f"audio:{tmp_path}", args=args)
