"""What a weights string names, told by first bytes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from compresskit.core.errors import InputError
from compresskit.model.checkpoints.locations import check_weights, kind_of, weight_files


def test_kinds_are_told_by_content(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.bin")
    torch.save({"a": torch.zeros(2)}, tmp_path / "b.safetensors")
    assert kind_of(tmp_path / "a.bin") == "safetensors"
    assert kind_of(tmp_path / "b.safetensors") == "torch"
    check_weights(f"{tmp_path}/b.safetensors#state_dict")  # keys are looked for when it is read


def test_a_shard_that_is_missing_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "tow.safetensors"}}))
    assert [path.name for path in weight_files(tmp_path)][1:] == ["one.safetensors", "tow.safetensors"]
    with pytest.raises(InputError, match=r"tow\.safetensors' does not exist; did you mean 'one\.safetensors'"):
        check_weights(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"<html>", "an HTML page"), (b"words", "unknown kind '.txt'"), (b"GGUF", "GGUF file")],
)
def test_what_holds_no_weights_is_named(content, said, tmp_path):
    (tmp_path / "w.txt").write_bytes(content)
    with pytest.raises(InputError, match=said):
        check_weights(str(tmp_path / "w.txt"))
