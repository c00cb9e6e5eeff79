"""Files as inputs."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, Preprocessing
from compresskit.pipeline.inspection.prediction_inputs import files_of, reader_of


def _loaded(*shape, **more):
    return Loaded(nn.Identity(), {}, torch.zeros(1, *shape), name="net", **more)


def test_images_are_prepared_as_the_model_says(tmp_path):
    images = pytest.importorskip("PIL.Image")
    images.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "a.png")
    reader = reader_of(_loaded(1, 4, 4, preprocessing=Preprocessing((0.5,), (0.5,), (4, 4), 1)), "net")
    ((label, example),) = reader.read(str(tmp_path / "a.png"))
    assert label.endswith("a.png") and example.shape == (1, 4, 4) and example.unique().tolist() == [1.0]
    assert reader.batch([example, example]).shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match="is an image, and model 'net' takes .5."):
        list(reader_of(_loaded(5), "net").read(str(tmp_path / "a.png")))


def test_arrays_hold_one_example_or_several_and_sounds_are_fitted(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    np.save(tmp_path / "two.npy", np.ones((2, 3)))
    reader = reader_of(_loaded(3), "net")
    found = [len(list(reader.read(str(tmp_path / name)))) for name in ("one.npy", "two.npy")]
    assert found == [1, 2]
    wavfile.write(tmp_path / "s.wav", 8000, np.full(4, 2**14, np.int16))
    ((_, sound),) = reader_of(_loaded(1, 6), "net").read(str(tmp_path / "s.wav"))
    assert sound.tolist() == [[0.5, 0.5, 0.5, 0.5, 0.0, 0.0]]


def test_sounds_are_resampled_to_the_rate_of_the_feature_extractor(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 4000}')
    wavfile.write(tmp_path / "s.wav", 8000, np.full(400, 2**14, np.int16))
    ((_, sound),) = reader_of(_loaded(300), f"hf:{tmp_path}").read(str(tmp_path / "s.wav"))
    assert sound[50:150].numpy() == pytest.approx(0.5, abs=0.01) and not sound[200:].any()


def test_folders_are_walked_and_what_is_no_path_stays(tmp_path):
    np.save(tmp_path / "b.npy", np.ones(1))
    (tmp_path / "notes.md").write_text("no input")
    assert list(files_of([str(tmp_path), "a sentence"])) == [str(tmp_path / "b.npy"), "a sentence"]
    with pytest.raises(InputError, match="predict needs an input"):
        list(files_of([]))


def test_a_model_of_several_inputs_takes_no_file(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    loaded = Loaded(nn.Identity(), {}, {"a": torch.zeros(1, 3), "b": torch.zeros(1, 3)}, name="net")
    with pytest.raises(InputError, match="takes 2 inputs"):
        list(reader_of(loaded, "net").read(str(tmp_path / "one.npy")))
