"""What a model's outputs become."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.pipeline.inspection.predicting import _record, predicted_line
from compresskit.pipeline.inspection.prediction_inputs import Reader

READER = Reader(lambda path: iter(()), lambda examples: torch.zeros(1), lambda one, other: True)


def test_logits_and_shares_become_classes_by_name():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    (first, second) = _record(logits, 0, 1, ["a", "b"], 2, READER)["top"]
    assert first["label"] == "b" and first["index"] == 1 and second["label"] is None and second["index"] == 2
    assert first["score"] == pytest.approx(float(logits.softmax(1)[0, 1]))
    shares = torch.tensor([[0.25, 0.75]])
    assert _record(shares, 0, 1, [], 1, READER)["top"][0]["score"] == 0.75
    assert predicted_line({"input": "x", "top": [first]}) == f"x: b {first['score']:.1%}"


def test_maps_values_and_boxes():
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 1, 0, 0] = 1
    assert _record(maps, 0, 1, ["sky", "sea"], 5, READER)["shares"] == [
        {"index": 0, "label": "sky", "score": 0.75}, {"index": 1, "label": "sea", "score": 0.25},
    ]  # fmt: skip
    value = _record(torch.tensor([[1.5], [2.5]]), 1, 2, [], 5, READER)
    assert value == {"shape": [1], "values": [2.5]}
    assert predicted_line({"input": "x", **value}) == "x: 2.5 (shape [1])"
    tokens = [{"index": index, "label": label, "score": 0.5} for index, label in enumerate(("\n  ", " is", "(", ""))]
    assert predicted_line({"input": "x", "top": tokens}) == "x: '\\n  ' 50.0%, ' is' 50.0%, ( 50.0%, '' 50.0%"
    boxes = _record([{"boxes": torch.zeros(3, 4), "labels": torch.ones(3)}], 0, 1, [], 5, READER)
    assert predicted_line({"input": "x", **boxes}) == "x: 3 boxes, 3 labels"
    with pytest.raises(InputError, match="no batch of 2 examples"):
        _record(torch.zeros(1, 3), 1, 2, [], 5, READER)
