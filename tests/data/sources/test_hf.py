"""Hugging Face data sets in folders."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.model.text_inputs import TextInputs


def test_images_and_labels_of_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    rows = {"image": [Image.fromarray(np.full((6, 6, 3), n, np.uint8)) for n in range(20)], "label": [0, 1] * 10}
    part = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "d"))
    data = open_data(f"hf:{tmp_path / 'd'}")
    inputs, targets = next(iter(data.batches("test", batch_size=20)))
    assert inputs.shape == (20, 3, 6, 6) and targets.tolist() == [0, 1] * 10
    assert float(inputs[7, 0, 0, 0]) == pytest.approx(7 / 255)


def test_what_is_no_data_set_is_refused(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="hf:"):
        open_data(f"hf:{tmp_path}")


def test_a_language_model_gets_the_texts_of_a_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": [chr(97 + n) * 30 for n in range(26)], "label": [0, 1] * 13})
    for name, found in (("one", part), ("parts", datasets.DatasetDict({"train": part, "validation": part}))):
        found.save_to_disk(str(tmp_path / name))
        model = TextInputs("causal", None, 64, 257)
        data = open_data(f"hf:{tmp_path / name}", args={"length": 10, "tokenizer": "bytes"}, text_inputs=model)
        inputs, targets = next(iter(data.batches("train", batch_size=4)))
        assert inputs["input_ids"].shape == targets.shape == (4, 10) and data.task == "language"
    with pytest.raises(InputError, match="has no column 'txt'; did you mean 'text'"):
        open_data(f"hf:{tmp_path / 'one'}", args={"column": "txt", "tokenizer": "bytes"}, text_inputs=model)
