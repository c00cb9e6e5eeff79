"""A number format of the user's own, from a file outside the package: command line, YAML and Python, save and load."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch

import compresskit
from compresskit.core.errors import InputError
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.tables import WEIGHT_FORMATS

OPTIONS = {"first_last": "same", "latency_rounds": 0}
TERNARY = '''
import torch
from compresskit.quantization.formats.base import BaseFormat, wide_scale


class Ternary(BaseFormat):
    """-1, 0 or 1 times a scale a channel."""

    bits = 2

    def quantize(self, matrix, spec, settings):
        scale = matrix.abs().mean(1, keepdim=True).to(getattr(torch, spec.scale_type))
        return {"values": (matrix / scale.float().clamp(min=1e-12)).round().clamp(-1, 1) + 1, "scale": scale}

    def dequantize(self, parts, spec):
        return (parts["values"].float() - 1) * wide_scale(parts, spec)


TERNARY = Ternary()
NO_FORMAT = 3
'''


@pytest.fixture
def reference(tmp_path):
    (tmp_path / "ternary.py").write_text(TERNARY)
    return f"{tmp_path / 'ternary.py'}:TERNARY"


@pytest.mark.integration
def test_a_file_adds_a_format_for_the_command_line_which_loads_again_when_trusted(reference, invoke, tmp_path):
    folder = tmp_path / "out"
    code, *said = invoke("quantize", "builtin:digits_cnn", "--scheme", reference, "--first-last", "same", "-o", folder)
    assert code == 0, said
    module = compresskit.load(folder, trust_source=True)
    for layer in quantized_layers(module).values():
        assert layer.spec.bits == 2 and layer.spec.packed
        rows = layer.dequantized("weight").flatten(1)
        assert all(len(row.abs().unique()) <= 2 for row in rows)
    row = json.loads((folder / "report.json").read_text())["steps"][-1]["tables"]["quantized layers"][0]
    assert row["format"] == reference


@pytest.mark.integration
def test_an_artifact_alone_runs_no_code(reference, tmp_path):
    compresskit.quantize("builtin:digits_cnn", scheme=reference, **OPTIONS).save(tmp_path / "out")
    code = f"import compresskit; compresskit.load({str(tmp_path / 'out')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is the user's own code; say --trust-source to run it" in done.stderr


def test_a_file_that_changed_is_not_run_by_trust(reference, tmp_path):
    file = tmp_path / "ternary.py"
    compresskit.quantize("builtin:digits_cnn", scheme=reference, **OPTIONS).save(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["code"] == {reference: hashlib.sha256(file.read_bytes()).hexdigest()}
    file.write_text(TERNARY + "raise SystemExit(3)\n")
    with pytest.raises(InputError, match=r"ternary.py' does not match the manifest's sha256: it was changed"):
        compresskit.load(tmp_path / "out", trust_source=True)
    del manifest["code"]  # as earlier releases wrote it
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    file.write_text(TERNARY)
    assert quantized_layers(compresskit.load(tmp_path / "out", trust_source=True))


def test_a_format_registered_from_python_is_a_scheme_by_its_name(tmp_path, monkeypatch):
    namespace = {"__name__": "ternary_of_the_test"}
    exec(compile(TERNARY, "ternary_of_the_test.py", "exec"), namespace)
    monkeypatch.setattr(WEIGHT_FORMATS, "_registered", {})
    WEIGHT_FORMATS.register("ternary", namespace["TERNARY"], help="three levels")
    result = compresskit.quantize("builtin:digits_cnn", scheme="ternary", **OPTIONS)
    result.save(tmp_path / "out")
    inputs = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(compresskit.load(tmp_path / "out")(inputs), result.model(inputs))


def test_layers_take_it_by_pattern(reference):
    result = compresskit.quantize("builtin:digits_cnn", format_for={"*": reference}, **OPTIONS)
    assert {layer.spec.format for layer in quantized_layers(result.model).values()} == {reference}


def test_what_is_no_format_is_refused(reference):
    with pytest.raises(InputError, match="without bits"):
        compresskit.quantize("builtin:digits_cnn", scheme=reference.replace("TERNARY", "NO_FORMAT"))
