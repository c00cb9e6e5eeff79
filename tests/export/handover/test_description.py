"""What a file says of its model."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded, Preprocessing
from compresskit.data.dataset import open_data
from compresskit.export.handover import description as module
from compresskit.export.handover.description import description, edits_in_short, labels_of, names_only, weights_sha256
from compresskit.training.context import Context


def loaded(example=None, preprocessing=Preprocessing()):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).eval()
    record = {"kind": "file", "path": "/home/somebody/secret/net.py", "factory": "factory"}
    example = torch.zeros(1, 3, 8, 6) if example is None else example
    return Loaded(net, record, example, name="/home/somebody/secret/net.py:factory", preprocessing=preprocessing)


@pytest.mark.parametrize(
    "given, kept",
    [
        ("/home/somebody/runs/int8", "int8"),
        ("runs/int8/", "int8"),
        ("hf:/tmp/models/bert", "hf:bert"),
        ("hf:google/bert-base", "hf:google/bert-base"),
        ("net/model.py:factory", "model.py:factory"),
        ("--output=/tmp/a.onnx", "--output=a.onnx"),
        ("~/x/weights.pt#state", "weights.pt#state"),
        (r"C:\Users\somebody\net.onnx", "C:net.onnx"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("0.5", "0.5"),
    ],
)
def test_paths_are_reduced_to_names(given, kept):
    assert names_only(given) == kept


def test_a_description_names_no_folder(monkeypatch):
    monkeypatch.setattr(module.sys, "argv", ["/opt/bin/compresskit", "export", "/home/somebody/net.py:factory"])
    one = loaded()
    found = description(one, Context(original=one))
    assert found["command"] == "compresskit export net.py:factory"
    assert "somebody" not in str(found) and "net.py" in found["model"]
    assert found["preprocessing"] == {
        "size": [8, 6],
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "order": "rgb",
        "where": "outside",
    }
    assert "text" not in found and "labels" not in found
    monkeypatch.setattr(module.sys, "argv", ["/home/somebody/train.py"])
    assert "command" not in description(one, Context(original=one))


def test_models_of_anything_but_one_image_have_no_preprocessing():
    for example in (torch.zeros(1, 5), (torch.zeros(1, 3, 8, 8), torch.zeros(1, 2)), torch.zeros(1, 7, 8, 8)):
        assert "preprocessing" not in description(loaded(example), Context(original=loaded()))


def test_declared_preprocessing_is_told():
    one = loaded(preprocessing=Preprocessing((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (4, 5), 3))
    found = description(one, Context(original=one))["preprocessing"]
    assert found == {
        "size": [4, 5],
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 2.0, 3.0],
        "order": "rgb",
        "where": "outside",
    }


def test_the_datas_own_preprocessing_and_classes_go_first(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6):
                image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{number}.png")
    data = open_data(f"imagefolder:{tmp_path}", args={"size": 6, "order": "bgr"})
    one = loaded()
    found = description(one, Context(original=one, data=data))
    assert found["preprocessing"]["size"] == [6, 6] and found["preprocessing"]["order"] == "bgr"
    assert found["labels"] == ["cat", "dog"]


def test_a_configurations_labels_count_where_they_are_names():
    class NetForImageClassification(nn.Module):
        pass

    one = loaded()
    one.module = NetForImageClassification()
    one.module.config = type("Config", (), {"id2label": {10: "ten", 9: "nine"}})()
    assert labels_of(one, None) == ["nine", "ten"]
    one.module.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    assert labels_of(one, None) == []


def test_edits_are_counted_by_kind():
    edits = [{"op": "resize"}, {"op": "quantized", "bits": 4, "format": "nf4"}, {"op": "resize"}]
    assert edits_in_short([*edits, {"op": "quantized", "output": "static"}]) == [
        "2 x resize", "1 x quantized nf4 of 4 bits", "1 x quantized",
    ]  # fmt: skip


def test_the_hash_is_of_the_weights():
    first, second = loaded().module, loaded().module
    second.load_state_dict(first.state_dict())
    assert weights_sha256(first) == weights_sha256(second)
    with torch.no_grad():
        second[0].bias[0] += 1
    assert weights_sha256(first) != weights_sha256(second)
