"""Hugging Face data sets in folders."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.model.text_inputs import TextInputs


@pytest.mark.integration
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


def test_columns_are_mapped_and_classes_have_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    rows = {
        "picture": [Image.fromarray(np.full((6, 6, 3), n, np.uint8)) for n in range(20)], "kind": [1, 0] * 10,
        "said": ["yes", "no"] * 10, "numbers": [[0.5 * n, 1.0] for n in range(20)], "price": [n / 4 for n in range(20)],
    }  # fmt: skip
    part = datasets.Dataset.from_dict(rows).cast_column("kind", datasets.ClassLabel(names=["cat", "dog"]))
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(str(tmp_path / "d"))

    def read(**arguments):
        data = open_data(f"hf:{tmp_path / 'd'}", args=arguments)
        return data, *next(iter(data.batches("test", batch_size=3)))

    data, inputs, targets = read(image="picture", label="kind")
    assert (data.classes, data.num_classes, targets.tolist()) == (("cat", "dog"), 2, [1, 0, 1])
    data, inputs, targets = read(image="picture", label="said")
    assert (data.classes, targets.tolist()) == (("no", "yes"), [1, 0, 1])
    data, inputs, targets = read(text="said", label="kind", length=4)
    assert inputs.shape == (3, 4) and targets.tolist() == [1, 0, 1]
    data, inputs, targets = read(inputs="numbers", label="price")
    assert inputs.tolist() == [[0.0, 1.0], [0.5, 1.0], [1.0, 1.0]] and targets.tolist() == [0.0, 0.25, 0.5]
    for arguments, says in (
        ({"image": "kind", "label": "kind"}, "column 'kind' holds no images, but int"),
        ({"text": "numbers", "label": "kind"}, "column 'numbers' holds no texts, but list"),
        ({"image": "pictur", "label": "kind"}, "did you mean 'picture'"),
    ):
        with pytest.raises(InputError, match=says):
            read(**arguments)
