"""Exported programs as models: read, measured, compared, exported on, and never changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.macs import count_macs
from compresskit.core.errors import InputError
from compresskit.core.types import call
from compresskit.model.exported import load_exported
from compresskit.pipeline.inspection.looking import diff_models, inspect_model


class Net(nn.Module):
    """Positional and named inputs, a dictionary of outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.rnn = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x, *, scale):
        return {"y": self.rnn(torch.relu(self.embed(x)))[0] * scale, "kept": [x]}


def write(path: Path, batch: int, *, free: bool) -> Path:
    sizes = ({0: torch.export.Dim("batch")},) if free else None
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    torch.export.save(torch.export.export(net, (torch.randn(batch, 3, 8, 8),), dynamic_shapes=sizes), path)
    return path


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    write(folder / "free.pt2", 2, free=True)
    write(folder / "fixed.pt2", 2, free=False)
    return folder


def test_layers_and_costs_are_those_of_the_source(programs):
    found = inspect_model(load_exported(programs / "free.pt2", trust_source=True))
    rows = {row["layer"]: row for row in found["layers"]}
    assert [(row["kind"], row["macs"]) for row in rows.values()] == [("Conv2d", 36 * 4 * 27), ("Linear", 144 * 5)]
    assert rows["0"]["output"] == [1, 4, 6, 6]
    assert found["macs"] == sum(row["macs"] for row in rows.values())
    assert found["parameters"] == 4 * 27 + 4 + 144 * 5 + 5
    assert found["peak_memory_bytes"] > 0


def test_a_fixed_batch_is_measured_as_it_is(programs):
    fixed = load_exported(programs / "fixed.pt2", trust_source=True)
    assert inspect_model(fixed)["macs"] == 2 * (36 * 4 * 27 + 144 * 5)


@pytest.mark.integration
def test_differences_and_latency(programs):
    first, second = (load_exported(programs / "free.pt2", trust_source=True) for _ in range(2))
    found = diff_models(first, second, "a", "b", rounds=1)
    assert found["layers"] == []
    assert {row["figure"] for row in found["figures"]} >= {"macs", "latency_ms", "peak_memory_bytes"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.integration
def test_positional_beside_named_inputs_and_modes(tmp_path):
    net = Net().eval()
    x, scale = torch.randn(1, 5, 4), torch.ones(1, 5, 1)
    torch.export.save(torch.export.export(net, (x,), {"scale": scale}), tmp_path / "net.pt2")
    loaded = load_exported(tmp_path / "net.pt2", trust_source=True)
    assert set(loaded.example) == {"x", "scale"}
    expected = net(x, scale=scale)["y"]
    for module in (loaded.module.train().eval(), copy.deepcopy(loaded.module)):
        assert torch.equal(call(module, {"x": x, "scale": scale})["y"], expected)
    assert count_macs(loaded.module, loaded.example).total == 5 * 24 + 5 * (4 * 8 * 6 + 4 * 8 * 8)
    assert {row["kind"] for row in inspect_model(loaded)["layers"]} == {"Linear", "LSTM"}


@pytest.mark.parametrize("content", ["text", "half", "state_dict", "zip"])
def test_other_files_are_refused_in_one_line(content, programs, tmp_path, capfd):
    path = tmp_path / "model.pt2"
    whole = (programs / "free.pt2").read_bytes()
    if content == "state_dict":
        torch.save({"a": torch.zeros(1)}, path)
    else:
        path.write_bytes(
            {"text": b"hello", "half": whole[: len(whole) // 2], "zip": b"PK\x05\x06" + bytes(18)}[content]
        )
    with pytest.raises(InputError, match=r"not a \.pt2 archive"):
        load_exported(path, trust_source=True)
    assert capfd.readouterr().err == ""


def test_damage_inside_an_archive_is_one_line(programs, tmp_path, capfd):
    import zipfile

    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(programs / "free.pt2") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"{" if name.endswith("model.json") else old.read(name))
    with pytest.raises(InputError, match=r"damaged \.pt2") as found:
        load_exported(path, trust_source=True)
    assert "\n" not in str(found.value)
    assert capfd.readouterr().err == ""


def test_reading_needs_trust(programs):
    with pytest.raises(InputError, match="--trust-source"):
        load_exported(programs / "free.pt2")


@pytest.mark.parametrize(
    "command",
    ["prune --ratio 0.5", "quantize", "decompose", "train --data digits", "search --data digits --target-macs 0.5"],
)
def test_techniques_refuse_before_they_read(command, invoke, programs, tmp_path):
    unread = tmp_path / "x.pt2"
    unread.write_bytes(b"not even an archive")
    code, out, err = invoke(command.split()[0], unread, *command.split()[1:], "-o", "out")
    assert (code, out) == (2, "")
    assert "exported program" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_a_student_cannot_be_a_program_and_a_teacher_can(invoke, tmp_path):
    from compresskit.model.tables import BUILTINS

    path, net = tmp_path / "t.pt2", BUILTINS.load("digits_cnn_small")().eval()
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.randn(2, 1, 8, 8),), dynamic_shapes=sizes), path)
    distill = ["distill", "builtin:digits_cnn_small", "--data", "digits", "--trust-source", "--epochs", "1"]
    code, _, err = invoke(*distill, "--student", path, "-o", "out")
    assert (code, "exported program" in err) == (2, True)
    code, _, _ = invoke(*distill, "--teacher", path, "--train-limit", "64", "--latency-rounds", "0", "-o", "out")
    assert code == 0


@pytest.mark.integration
def test_export_writes_a_program_on(invoke, programs, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    fixed = programs / "fixed.pt2"
    code, _, err = invoke("export", fixed, "--trust-source", "-o", "a.onnx")
    assert (code, "--batch-size" in err) == (2, True)
    command = ["export", fixed, "--trust-source", "-o", "a.onnx", "--batch-size", "2", "--rounds", "1", "--json"]
    code, out, _ = invoke(*command)
    assert code == 0
    assert json.loads(out)["largest_difference"] < 1e-5


def test_a_teacher_that_does_not_fit_is_one_line(invoke, programs):
    command = ["distill", "builtin:digits_cnn_small", "--data", "digits", "--trust-source", "--epochs", "1", "-o", "o"]
    code, _, err = invoke(*command, "--teacher", programs / "free.pt2")
    assert (code, "the teacher does not take the student's inputs" in err) == (2, True)
