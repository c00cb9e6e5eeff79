"""Artifacts: round trips, refusals, and what a failed save leaves behind."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from compresskit.artifact import artifact
from compresskit.artifact.disk import files
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError


@pytest.fixture
def loaded():
    return load_model("builtin:digits_cnn_small")


@pytest.mark.integration
@pytest.mark.parametrize(
    "model",
    [
        "builtin:cifar_resnet20",
        "builtin:lenet5",
        "torchvision:resnet18",
        "torchvision:swin_t",
        "timm:vit_tiny_patch16_224",
    ],
)
def test_round_trip_is_bit_equal(model, tmp_path):
    pytest.importorskip(model.split(":")[0] if not model.startswith("builtin") else "torch")
    loaded = load_model(model)
    size = artifact.save(loaded, tmp_path / "a")
    again = artifact.load(tmp_path / "a")
    assert size == (tmp_path / "a" / "model.safetensors").stat().st_size
    assert torch.equal(loaded.module(loaded.example), again.module(again.example))
    assert again.preprocessing == loaded.preprocessing
    assert not any(parameter.is_meta for parameter in again.module.parameters())


def test_edits_replay(tmp_path, loaded):
    loaded.edits += [
        {"op": "resize", "target": "0", "shapes": {"weight": [5, 1, 3, 3]}, "attributes": {"out_channels": 5}},
        {
            "op": "resize",
            "target": "1",
            "shapes": {n: [5] for n in ("weight", "bias", "running_mean", "running_var")},
            "attributes": {"num_features": 5},
        },
        {"op": "resize", "target": "3", "shapes": {"weight": [32, 5, 3, 3]}, "attributes": {"in_channels": 5}},
    ]
    from compresskit.artifact.edits import replay
    from compresskit.model.builders import build

    with torch.device("meta"):
        replay(build(loaded.source), loaded.edits)
    replay(loaded.module, loaded.edits)
    for parameter in loaded.module.parameters():
        nn.init.uniform_(parameter, -0.2, 0.2)
    for buffer in loaded.module.buffers():
        if buffer.is_floating_point() and len(buffer) == 5:
            buffer.fill_(1.0)
    artifact.save(loaded, tmp_path / "a")
    again = artifact.load(tmp_path / "a").module
    assert again[0].out_channels == 5
    assert again[3].weight.shape == (32, 5, 3, 3)
    assert torch.equal(again(loaded.example), loaded.module(loaded.example))


def test_a_missing_edit_is_caught_when_saving(tmp_path, loaded):
    loaded.module[0] = nn.Conv2d(1, 16, 3, padding=1, bias=True)
    with pytest.raises(InputError, match="0.bias"):
        artifact.save(loaded, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_change_that_no_edit_records_is_caught_when_saving(tmp_path, loaded):
    loaded.module[2] = nn.Tanh()
    with pytest.raises(artifact.ProbeMismatch):
        artifact.save(loaded, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


class Tied(nn.Module):
    """Embedding and output layer share one weight; a non-persistent buffer takes part."""

    input_shape = (6,)

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.output = nn.Linear(4, 11, bias=False)
        self.output.weight = self.embedding.weight
        self.register_buffer("shift", torch.arange(4.0), persistent=False)

    def forward(self, tokens):
        return self.output(self.embedding(tokens.long().clamp(0, 10)) + self.shift)


def test_ties_and_non_persistent_buffers_survive(tmp_path, monkeypatch):
    (tmp_path / "tied.py").write_text("from tests.artifact.test_artifact import Tied\n")
    loaded = load_model(f"{tmp_path}/tied.py:Tied")
    loaded.module.shift += 1
    artifact.save(loaded, tmp_path / "a")
    manifest = artifact.read_manifest(tmp_path / "a")
    assert manifest["tied"] == {"output.weight": "embedding.weight"}
    assert manifest["non_persistent"] == ["shift"]
    again = artifact.load(tmp_path / "a", trust_source=True).module
    assert again.output.weight is again.embedding.weight
    assert torch.equal(again.shift, torch.arange(4.0) + 1)


def test_nan_weights_are_not_saved(tmp_path, loaded):
    with torch.no_grad():
        loaded.module[0].weight[0] = float("nan")
    with pytest.raises(InputError, match="0.weight holds NaN"):
        artifact.save(loaded, tmp_path / "a")


def test_probe_differs_when_weights_do(tmp_path, loaded):
    artifact.save(loaded, tmp_path / "a")
    recorded = artifact.read_manifest(tmp_path / "a")["probe"]
    assert artifact.probe_difference(loaded, recorded) == 0
    with torch.no_grad():
        loaded.module[0].weight.mul_(1.5)
    assert artifact.probe_difference(loaded, recorded) > artifact.PROBE_TOLERANCE


def test_bitmap_storage_is_smaller_and_exact(tmp_path, loaded):
    dense = artifact.save(loaded, tmp_path / "dense")
    with torch.no_grad():
        weight = loaded.module[7].weight
        weight[torch.rand(weight.shape) < 0.9] = 0
    loaded.storage["7.weight"] = "bitmap"
    sparse = artifact.save(loaded, tmp_path / "sparse")
    again = artifact.load(tmp_path / "sparse")
    assert sparse < dense - 0.8 * 4 * weight.numel()
    assert torch.equal(again.module[7].weight, weight)
    assert again.storage == {"7.weight": "bitmap"}


@pytest.mark.parametrize("force", [False, True])
def test_replacing_leaves_the_old_folder_when_the_block_fails(tmp_path, force):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with pytest.raises((InputError, KeyboardInterrupt)), files.replacing(tmp_path / "a", force=force) as temporary:
        (temporary / "new").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["old"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})


def test_manifest_holds_what_replays_it(tmp_path, loaded):
    artifact.save(loaded, tmp_path / "a", provenance={"command": ["x"]})
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["format_version"] == artifact.FORMAT_VERSION
    assert manifest["source"] == {"kind": "builtin", "name": "digits_cnn_small", "args": {}}
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["provenance"] == {"command": ["x"]}
    assert manifest["inputs"] == {"shape": [1, 1, 8, 8], "dtype": "float32"}


def test_a_channels_last_model_is_stored_in_the_plain_layout_and_computes_the_same(tmp_path):
    loaded = load_model("builtin:digits_cnn_small")
    loaded.module.to(memory_format=torch.channels_last)
    assert not loaded.module[3].weight.is_contiguous()
    artifact.save(loaded, tmp_path / "a")
    # as with torch's own load_state_dict, the layout is the caller's to choose again
    again = artifact.load(tmp_path / "a")
    assert all(tensor.is_contiguous() for tensor in again.module.state_dict().values())
    inputs = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.module(inputs), loaded.module(inputs))
        torch.testing.assert_close(again.module.to(memory_format=torch.channels_last)(inputs), loaded.module(inputs))
    for name, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
