"""Products of activations: attention written out is attention, and what it reads is quantized."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.lowered_layers import lower
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.openvino import openvino
from compresskit.quantization.calibration.attention_matmuls import attention, count_operands, products_of
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.layers.quantized_layer import quantize_activation, quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.qat import take_over, trainable
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


Q, K, V = random(2, 4, 5, 8), random(2, 4, 6, 8), random(2, 4, 6, 3)


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": random(5, 6) > 0},
        {"attn_mask": random(2, 1, 5, 6)},
        {"attn_mask": torch.zeros(5, 6).masked_fill(random(5, 6) > 1, float("-inf"))},
    ],
    ids=lambda named: ",".join(named) or "plain",
)
def test_attention_written_out_is_torchs(named):
    seen = []
    result = attention(lambda values: seen.append(values.shape) or values, Q, K, V, **named)
    torch.testing.assert_close(result, F.scaled_dot_product_attention(Q, K, V, **named))
    assert seen == [(2, 4, 5, 8), (2, 4, 8, 6), (2, 4, 6, 3), (2, 4, 5, 6)]


def test_attention_shares_keys_between_heads():
    key, value = K[:, :2], V[:, :2]
    wanted = F.scaled_dot_product_attention(Q, key, value, enable_gqa=True)
    torch.testing.assert_close(attention(lambda values: values, Q, key, value, enable_gqa=True), wanted)


class Mixer(nn.Module):
    """Every kind of product, and products that have a weight and do not count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(random(4, 4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        x = self.linear(x @ self.weight)
        y = torch.bmm(x, x.mT) @ x
        y = torch.baddbmm(y, x.matmul(x.mT), y)
        return torch.einsum("bij,bkj->bik", y, x) @ x


def test_operands_are_counted_where_they_are_read():
    inner = nn.MultiheadAttention(4, 2, batch_first=True)
    model = nn.Sequential(Mixer(), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    # two bmm, two matmul, baddbmm, einsum and matmul of two each
    assert count_operands(model, random(2, 3, 4)) == {"0": 12, "1.self_attn": 6}
    model = nn.ModuleDict({"attention": inner})
    model.forward = lambda x: inner(x, x, x)[0]
    # what three projections in one read, query and key, probabilities and value, what the last projection reads
    assert count_operands(model, random(2, 3, 4)) == {"attention": 6}


def test_each_operand_has_its_own_scale():
    class Product(nn.Module):
        def forward(self, x, y):
            return x @ y

    layer = convert(Product(), Spec(operands=2))
    layer.operand_scale.copy_(torch.tensor([0.5, 0.1]))
    layer.operand_zero_point.copy_(torch.tensor([0, 100]))
    x, y = random(1, 2, 3).abs(), random(1, 3, 2)
    wanted = quantize_activation(x, torch.tensor(0.5), torch.tensor(0), 8) @ quantize_activation(
        y, torch.tensor(0.1), torch.tensor(100), 8
    )
    assert torch.equal(layer(x, y), wanted)
    assert torch.equal(layer(x[0], y[0]), x[0] @ y[0])  # matrices without a batch are no activations
    with pytest.raises(InputError, match="more products than the 2 operands calibrated"):
        convert(Mixer(), Spec(operands=2))(random(2, 3, 4))


def test_projections_of_multihead_attention_count_and_nothing_is_seen_twice():
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), random(2, 5, 8)
    for named in ({"need_weights": False}, {"need_weights": True}, {"key_padding_mask": random(2, 5) > 0.5}):
        wanted = layer(x, x, x, **named)[0].detach()
        inner, outer = [], []
        around = products_of(nn.Identity(), lambda values, outer=outer: outer.append(values) or values)
        own = products_of(layer, lambda values, inner=inner: inner.append(values) or values)
        with around, own:
            found = layer(x, x, x, **named)[0]
        torch.testing.assert_close(found, wanted)
        assert (len(inner), len(outer)) == (6, 0)


class Sequences:
    def calibration(self, samples, *, batch_size=64, seed=0):
        return [torch.randn(32, 6, 8, generator=torch.Generator().manual_seed(seed + part)) for part in range(2)]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 5)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x):
        x = self.encoder(self.embed(x))
        return self.head((x + F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))).mean(1))


def quantized_transformer(**options):
    torch.manual_seed(0)
    loaded = Loaded(Transformer().eval(), {}, random(1, 6, 8))
    original = loaded.clone()
    return original, quantize(loaded, QuantizeOptions(**options), Context(original=original, data=Sequences()))


INPUTS = random(16, 6, 8)


@pytest.mark.integration
@pytest.mark.parametrize("scheme", ["int8-static", "int8-dynamic"])
def test_a_transformer_computes_its_attention_in_eight_bits(scheme, tmp_path):
    original, result = quantized_transformer(scheme=scheme)
    module = result.loaded.module
    layers = quantized_layers(module)
    assert {name: layer.spec.operands for name, layer in layers.items() if layer.spec.operands} == {
        "encoder.self_attn": 6,
        "": 4,
    }
    assert result.facts["quantized_product_operands"] == 10
    assert not [note for note in result.notes if "weights only" in note]
    with torch.no_grad():
        wanted, found = original.module(INPUTS), module(INPUTS)
        assert 0 < float((found - wanted).abs().max()) < 0.05 * float(wanted.abs().max())
        torch.testing.assert_close(lower(module)(INPUTS), found, rtol=1e-4, atol=1e-5)
        program = export_program(module, result.loaded.example)
        torch.testing.assert_close(program.module()(INPUTS), found, rtol=1e-4, atol=1e-5)
    rebuilt = replay(Transformer(), result.loaded.edits).eval()
    rebuilt.load_state_dict(module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt(INPUTS), found)
    check_onnx(program, found, tmp_path, scheme)


def check_onnx(program, wanted, folder, scheme):
    """Both runtimes compute the same, and ONNX Runtime in integers."""
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    export_onnx(program, folder / "model.onnx")
    settings = runtime.SessionOptions()
    settings.optimized_model_filepath = str(folder / "optimized.onnx")
    settings.log_severity_level = 3
    session = runtime.InferenceSession(str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: INPUTS.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-3)
    kinds = [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
    integer = {"int8-static": ("MatMulIntegerToFloat", "QLinearMatMul"), "int8-dynamic": ("DynamicQuantizeMatMul",)}
    assert sum(kinds.count(kind) for kind in integer[scheme]) == 9
    assert "MatMul" not in kinds
    pytest.importorskip("openvino")
    runner = openvino(Exported(Transformer(), program, folder / "model.onnx", INPUTS, threads=1))
    torch.testing.assert_close(runner(INPUTS), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.integration
def test_products_stay_in_float_where_asked():
    _, result = quantized_transformer(scheme="int8-static", quantize_attention=False)
    assert result.facts["quantized_product_operands"] == 0
    _, result = quantized_transformer(scheme="int8-static", skip=["encoder.self_attn"])
    assert result.facts["quantized_product_operands"] == 4
    _, result = quantized_transformer(scheme="int8-static", layers=["qkv", "head"])
    assert result.facts["quantized_product_operands"] == 0
    with pytest.raises(ValueError, match="quantize_attention would be ignored"):
        QuantizeOptions(scheme="int8-weight", quantize_attention=True)


@pytest.mark.parametrize("observer", ["minmax", "auto"])
@pytest.mark.integration
def test_ranges_are_those_of_the_operands(observer):
    _, result = quantized_transformer(scheme="int8-static", observer=observer)
    attention_layer = quantized_layers(result.loaded.module)["encoder.self_attn"]
    # projection, query, key, value, probabilities, projection: probabilities are never negative
    assert attention_layer.operand_zero_point[4] == 0
    assert float(attention_layer.operand_scale[4]) * 255 <= 1.0
    assert len(set(attention_layer.operand_scale.tolist())) == 6


def test_steps_of_operands_are_learned():
    original, result = quantized_transformer(scheme="int8-static")
    quantized = result.loaded.module
    shadow = trainable(quantized, copy.deepcopy(original.module))
    optimizer = torch.optim.Adam(shadow.parameters(), 1e-3)
    before = quantized.encoder.self_attn.operand_scale.clone()
    with torch.no_grad():
        wanted = original.module(INPUTS)
    for _ in range(5):
        optimizer.zero_grad()
        F.mse_loss(shadow(INPUTS), wanted).backward()
        optimizer.step()
    take_over(shadow, quantized)
    after = quantized.encoder.self_attn.operand_scale
    assert (after != before).all()
    with torch.no_grad():
        torch.testing.assert_close(quantized(INPUTS), shadow.eval()(INPUTS), rtol=1e-3, atol=1e-3)
