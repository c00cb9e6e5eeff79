"""What each layer runs in, by the runtimes' own evidence."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.integers.layer_table import integer_share
from compresskit.export.lowering import carry_out
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


class Net(nn.Module):
    """A convolution, a transposed one, one that is left in float, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2)
        self.plain, self.head = nn.Conv2d(8, 4, 1), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.plain(self.up(self.first(x).relu())).mean((2, 3)))


MACS = {"first": 8 * 64 * 27, "up": 8 * 64 * 8 * 4, "plain": 256 * 4 * 8, "head": 20}


@pytest.fixture(scope="module")
def int8(images):
    torch.manual_seed(0)
    loaded = Loaded(Net().eval(), {}, torch.randn(1, 3, 8, 8))
    options = QuantizeOptions(scheme="int8-static", skip=["plain"], calibration_samples=16)
    quantize(loaded, options, Context(loaded, data=images((3, 8, 8))))
    return loaded


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_layers_in_integers_and_reasons_of_the_others(int8, tmp_path, runtime):
    pytest.importorskip("onnxscript")
    pytest.importorskip(runtime)
    done = carry_out(int8, ExportOptions(runtime=runtime, rounds=1), Context(int8), tmp_path / "m.onnx")
    rows = {row["layer"]: row for row in done.tables["layers"]}
    assert {name: row["macs"] for name, row in rows.items()} == MACS
    assert [rows[name]["why"] for name in ("first", "head")] == ["", ""]
    assert "int8" in rows["first"]["runs_in"]
    assert rows["plain"]["runs_in"] == "float32" and "not quantized" in rows["plain"]["why"]
    in_integers = sum(macs for name, macs in MACS.items() if not rows[name]["why"])
    assert done.facts["integer_macs"] == pytest.approx(in_integers / sum(MACS.values()))
    if runtime == "onnxruntime":
        assert rows["up"]["why"] == "onnxruntime has no integer kernel for ConvTranspose of 2 dimensions here"
    assert done.facts["float_latency_ms"] > 0 and done.facts["speedup"] > 0


def test_no_macs_have_no_share():
    assert integer_share([]) is None
    assert integer_share([{"macs": 3, "why": ""}, {"macs": 1, "why": "float"}]) == 0.75


class Attention(nn.Module):
    """Linear layers in a row, of which OpenVINO renames the middle one, and products that it merges with a scale."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
        self.mixed = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.rows(x)
        return self.mixed(x, x, x, key_padding_mask=x.mean(-1) < -99.0, need_weights=False)[0]


def test_layers_that_openvino_merges_with_others_have_their_kernels(images, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    loaded = Loaded(Attention().eval(), {}, torch.randn(1, 5, 8))
    quantize(loaded, QuantizeOptions(scheme="int8-static"), Context(loaded, data=images((5, 8))))
    done = carry_out(loaded, ExportOptions(runtime="openvino", rounds=0), Context(loaded), tmp_path / "m.onnx")
    rows = done.tables["layers"]
    assert [row["why"] for row in rows if row["layer"].startswith("rows")] == ["", "", ""]
    assert len(rows) == 7 and all(row["runs_in"] != "unknown" for row in rows)


class Flat(nn.Module):
    """Residuals without blocks of their own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + torch.relu(self.second(x))
        x = torch.relu_(self.third(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_residuals_without_blocks_compute_in_integers(images, tmp_path, runtime):
    pytest.importorskip("onnxscript")
    pytest.importorskip(runtime)
    torch.manual_seed(0)
    loaded = Loaded(Flat().eval(), {}, torch.randn(1, 3, 8, 8))
    quantize(loaded, QuantizeOptions(scheme="int8-static"), Context(loaded, data=images((3, 8, 8))))
    done = carry_out(loaded, ExportOptions(runtime=runtime, rounds=0), Context(loaded), tmp_path / "m.onnx")
    assert [row["why"] for row in done.tables["layers"]] == [""] * 4
    assert done.facts["largest_difference"] < 0.02 * done.facts["output_scale"]
