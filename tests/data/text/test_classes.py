"""Texts with classes."""

from __future__ import annotations

import json

from compresskit.data.dataset import open_data
from compresskit.model.text_inputs import TextInputs


def test_a_classifier_reads_texts_with_its_own_tokenizer(tmp_path, tokenizer_dir):
    rows = [{"text": f"w{number % 7} w1", "label": ("bad", "good")[number % 2]} for number in range(30)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = TextInputs("classifier", tokenizer_dir, 64, 45)
    for form in ("text", "jsonl"):
        data = open_data(f"{form}:{tmp_path}/d.jsonl", args={"length": 5}, text_inputs=model)
        inputs, targets = next(iter(data.batches("test", batch_size=2)))
        assert inputs["input_ids"][0, 0] == 2 and inputs["input_ids"][0, 2:].tolist() == [6, 3, 0]
        assert data.classes == ("bad", "good") and set(targets.tolist()) <= {0, 1} and data.task is None
