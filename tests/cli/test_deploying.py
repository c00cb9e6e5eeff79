"""bench, predict, pack and evaluate: what they print, and what they refuse."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A linear classifier of 8x8 grey images as a file, an image, an array."""
    import torch

    from compresskit.export.exporters.export_program import DESCRIPTION, export_program
    from compresskit.export.exporters.onnx import export_onnx

    folder = tmp_path_factory.mktemp("deploying")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[2].fill_(1.0)
        net[1].bias.zero_()[0] = 1e-3
    program = export_program(net, torch.zeros(1, 1, 8, 8))
    wanted = {"size": [8, 8], "mean": [0.0], "std": [1.0], "order": "gray"}
    about = {"preprocessing": wanted, "labels": list("abcdefghij")}
    program.graph_module.meta[DESCRIPTION] = about
    export_onnx(program, folder / "net.onnx")
    (folder / "images").mkdir()
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(folder / "images" / "white.png")
    np.save(folder / "two.npy", np.zeros((2, 1, 8, 8), np.float32))
    return folder


def test_predict_names_the_likeliest_class(invoke, files):
    code, out, _ = invoke("predict", files / "net.onnx", files / "images", files / "two.npy", "--top", "1")
    assert code == 0
    first, *rest = out.splitlines()
    assert first.endswith("white.png: c 100.0%") and len(rest) == 2 and rest[0].endswith("two.npy[0]: a 10.0%")
    code, out, _ = invoke("predict", files / "net.onnx", files / "two.npy", "--json", "-q", "--top", "99")
    found = json.loads(out)
    assert code == 0 and len(found) == 2 and len(found[0]["top"]) == 10
    assert abs(sum(one["score"] for one in found[0]["top"]) - 1) < 1e-6


def test_bench_measures_side_by_side_and_marks_the_best(invoke, files):
    arguments = (files / "net.onnx", "builtin:digits_cnn", "--data", "digits", "--rounds", "2", "--eval-limit", "20")
    further = ("--batch-size", "4", "--cold-start", "skip", "--json", "--plot", "b.svg")
    code, out, err = invoke("bench", *arguments, *further)
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["model"].rpartition("/")[2], row["runtime"]) for row in rows] == [
        ("net.onnx", "onnxruntime"), ("builtin:digits_cnn", "eager"),
    ]  # fmt: skip
    for row in rows:
        assert [one["batch_size"] for one in row["latency"]] == [1, 4]
        assert all(0 < one["low_ms"] <= one["median_ms"] <= one["high_ms"] for one in row["latency"])
        assert row["metric"]["name"] == "top1" and row["metric"]["samples"] == 20
    assert rows[0]["size_bytes"] == (files / "net.onnx").stat().st_size
    assert any(row["best"] for row in rows)


def test_evaluate_judges_a_file(invoke, files):
    code, out, _ = invoke("evaluate", files / "net.onnx", "--data", "digits", "--eval-limit", "10", "--json", "-q")
    found = json.loads(out)
    assert code == 0 and found["metric"]["samples"] == 10
    assert found["size_bytes"] == (files / "net.onnx").stat().st_size


def test_a_packed_folder_checks_itself_and_names_an_image(invoke, files, tmp_path):
    code, out, err = invoke("pack", files / "net.onnx", "-o", "packed", "--json", "-q")
    assert code == 0, err
    found = json.loads(out)
    written = ["README.md", "check.npz", "model.labels.txt", "model.onnx", "model.py", "requirements.txt", "run.py"]
    assert found["files"] == written
    assert found["requirements"][0].startswith("onnxruntime==") and found["requirements"][1:] == ["numpy", "pillow"]

    def run(*arguments):
        command = [sys.executable, tmp_path / "packed" / "run.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("--check").stdout.startswith("OK: 1 outputs")
    assert "white.png: c" in run(files / "images" / "white.png").stdout
    kept = dict(np.load(tmp_path / "packed" / "check.npz"))
    np.savez(tmp_path / "packed" / "check.npz", **{name: value + 1 for name, value in kept.items()})
    broken = run("--check")
    assert broken.returncode == 1 and "FAILED" in broken.stderr
    assert invoke("pack", files / "net.onnx", "-o", "packed")[0] == 2


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("bench", "missing.onnx"), "does not exist"),
        (("bench", "builtin:lenet5", "--runtime", "tensorrtx"), "unknown runtime"),
        (("bench", "builtin:lenet5", "--batch-size", "0"), "batch"),
        (("bench", "builtin:lenet5", "--runtime", "transformers"), "reads no graphs"),
        (("bench", "builtin:lenet5", "--plot", "x.txt"), "must end in"),
        (("bench", "builtin:lenet5", "--runtime", "onnxruntime-tensorrt"), "has no Tensorrt"),
        (("bench", "NET", "--data", "npz:missing.npz"), "missing.npz"),
        (("predict", "NET"), "Missing argument"),
        (("predict", "NET", "missing.png"), "does not exist"),
        (("predict", "NET", "text.txt"), "takes images, .npy and .wav"),
        (("predict", "NET", "bad.png"), "cannot be read"),
        (("predict", "NET", "bad.npy"), "cannot be read"),
        (("predict", "NET", "flat.npy"), "has the shape [4]"),
        (("predict", "NET", "empty"), "holds no input"),
        (("predict", "NET", "flat.npy", "--labels", "missing.txt"), "labels 'missing.txt' does not exist"),
        (("predict", "NET", "flat.npy", "--weights", "w.pt"), "would be ignored"),
        (("predict", "builtin:digits_cnn", "flat.npy", "--runtime", "openvino"), "would be ignored"),
        (("pack", "model.pte", "-o", "x"), "pack takes .onnx files"),
        (("pack", "NET", "-o", "empty/../text.txt"), "text.txt"),
        (("evaluate", "NET"), "needs data"),
        (("prune", "NET", "--ratio", "0.5"), "net.onnx"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(invoke, files, tmp_path, arguments, says):
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    given = [str(files / "net.onnx") if one == "NET" else one for one in arguments]
    code, out, err = invoke(*given)
    assert code == 2 and out == ""
    assert says in err.splitlines()[-1] or says in err, err


def test_help_lists_the_commands_and_completes(invoke):
    code, out, _ = invoke("--help")
    assert code == 0 and all(f"\n  {name} " in out for name in ("bench", "predict", "pack"))
    for name in ("bench", "predict", "pack"):
        code, out, _ = invoke(name, "--help")
        assert code == 0 and len(out.splitlines()) < 40 and "--help-all" in out
