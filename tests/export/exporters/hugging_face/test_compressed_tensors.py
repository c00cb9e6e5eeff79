"""Folders in the layout of compressed-tensors, as the library itself reads them."""

import json

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.exporters.hugging_face.compressed_tensors import compressed_tensors
from compresskit.export.folders.proof import own_output
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
OPTIONS = ExportOptions(format="compressed-tensors")


@pytest.mark.parametrize(
    ("scheme", "layout", "dtype"),
    [
        ({"scheme": "int4-weight", "granularity": "group", "group_size": 16}, "pack-quantized", torch.float32),
        ({"scheme": "int3-weight"}, "pack-quantized", torch.float32),
        ({"scheme": "int8-weight"}, "pack-quantized", torch.bfloat16),
        ({"scheme": "int8-dynamic", "quantize_attention": False}, "int-quantized", torch.float32),
        ({"scheme": "float8-weight"}, "float-quantized", torch.float32),
    ],
)
def test_the_library_loads_what_the_model_computes(scheme, layout, dtype, tmp_path):
    pytest.importorskip("compressed_tensors")
    loaded = tiny(tmp_path / "source", dtype=dtype, intermediate_size=40)
    quantize(loaded, QuantizeOptions(**scheme), Context(loaded.clone()))
    notes = compressed_tensors(loaded, tmp_path, OPTIONS)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["format"] == layout and config["quant_method"] == "compressed-tensors"
    module = type(loaded.module).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found = module(**loaded.example).logits.float()
    wanted = own_output(loaded)
    tolerance = 1e-6 if dtype is torch.float32 else 0.05
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())
    assert notes in ([], ["weights of 1 quantized layers are floats in the folder, such as model.embed_tokens"])


def test_what_the_layout_cannot_say_is_refused(tmp_path):
    loaded = tiny(tmp_path / "source")
    with pytest.raises(InputError, match="none of its layers is quantized in a form that the layout has"):
        compressed_tensors(loaded, tmp_path, OPTIONS)
    quantize(loaded, QuantizeOptions(scheme="int8-dynamic"), Context(loaded.clone()))
    with pytest.raises(InputError, match="the products inside them"):
        compressed_tensors(loaded, tmp_path, OPTIONS)
    loaded = tiny(tmp_path / "source")
    quantize(loaded, QuantizeOptions(scheme="int4-weight", weight_range="affine"), Context(loaded.clone()))
    with pytest.raises(InputError, match="ranges with zero points"):
        compressed_tensors(loaded, tmp_path, OPTIONS)
