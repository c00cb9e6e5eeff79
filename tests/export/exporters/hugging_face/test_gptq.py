"""GPTQ's layout, unpacked bit by bit, and its configuration as its readers read it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from compresskit.core.errors import InputError
from compresskit.export.exporters.hugging_face.gptq import gptq
from compresskit.export.lowering import carry_out
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
LAYER = "model.layers.1.mlp.down_proj"


def bit_by_bit(words, bits, index):
    """The code at a place of a row of 32-bit words."""
    word, place = divmod(index * bits, 32)
    return (int(words[word]) & 0xFFFFFFFF) >> place & ((1 << bits) - 1)


@pytest.mark.parametrize(
    ("given", "bits", "form"),
    [
        ({"scheme": "int4-weight", "granularity": "group", "group_size": 16}, 4, "gptq"),
        ({"scheme": "int4-weight", "granularity": "group", "group_size": 16, "weight_range": "affine"}, 4, "gptq_v2"),
        ({"scheme": "int2-weight", "granularity": "group", "group_size": 16}, 2, "gptq"),
        ({"scheme": "int8-weight"}, 8, "gptq"),
    ],
)
def test_every_code_stands_where_the_layout_has_it(given, bits, form, tmp_path):
    loaded = tiny(tmp_path / "source")
    quantize(loaded, QuantizeOptions(**given, reconstruct="none"), Context(loaded.clone()))
    result = carry_out(loaded, ExportOptions(format="gptq", samples=2, rounds=0), Context(loaded), tmp_path / "out")
    assert result.facts["unpacked_difference"] < 1e-3 and result.facts["runtime"] == "unpacked"
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["bits"], said["checkpoint_format"]) == ("gptq", bits, form)
    assert (said["sym"], said["desc_act"]) == (form == "gptq", False)
    assert said["group_size"] == (16 if "group_size" in given else -1)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    words, zeros, scales, groups = (tensors[f"{LAYER}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
    size = given.get("group_size", 48)
    assert words.shape == (48 * bits // 32, 32) and zeros.shape == (48 // size, 32 * bits // 32)
    assert scales.shape == (48 // size, 32) and scales.dtype == torch.float16
    assert groups.tolist() == [column // size for column in range(48)]
    weight = loaded.module.get_submodule(LAYER).weight
    for column, row in [(0, 0), (1, 5), (17, 31), (47, 8)]:
        zero = bit_by_bit(zeros[column // size], bits, row)
        zero = zero if form == "gptq_v2" else zero + 1
        value = (bit_by_bit(words[:, row], bits, column) - zero) * float(scales[column // size, row])
        assert value == pytest.approx(float(weight[row, column]), rel=1e-3, abs=1e-6)
    with torch.no_grad():
        own = loaded.module(**loaded.example).logits
    torch.testing.assert_close(result.runner(**loaded.example).logits, own, rtol=1e-3, atol=1e-3)


def test_other_bits_and_floats_are_said_layer_by_layer(tmp_path):
    loaded = tiny(tmp_path / "source")
    options = QuantizeOptions(
        scheme="int4-weight", granularity="group", group_size=16, bits_for={LAYER: 8, "lm_head": 3},
        skip=["model.layers.0.mlp.up_proj"], first_last="same", reconstruct="none",
    )  # fmt: skip
    quantize(loaded, options, Context(loaded.clone()))
    (tmp_path / "out").mkdir()
    notes = gptq(loaded, tmp_path / "out", ExportOptions(format="gptq"))
    assert notes[0] == "weights of 2 quantized layers are floats in the folder, such as model.embed_tokens"
    assert notes[1].startswith("1 layers have other bits or groups than most, which GPTQModel and vLLM read")
    dynamic = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["dynamic"]
    assert dynamic == {
        r"+:^model\.layers\.1\.mlp\.down_proj$": {"bits": 8, "group_size": 16},
        r"-:^model\.layers\.0\.mlp\.up_proj$": {},
        "-:^lm_head$": {},
    }


def test_models_without_such_layers_are_refused(tmp_path):
    loaded = tiny(tmp_path / "source")
    with pytest.raises(InputError, match="none of its layers fits the layout"):
        gptq(loaded, tmp_path, ExportOptions(format="gptq"))
    quantize(loaded, QuantizeOptions(scheme="int8-dynamic"), Context(loaded.clone()))
    with pytest.raises(InputError, match="quantize their activations"):
        gptq(loaded, tmp_path, ExportOptions(format="gptq"))
