"""The whole step: replayable results, layer choice, facts, and accuracy on real data."""

import pytest
import torch
from torch import nn

from compresskit.artifact import artifact
from compresskit.artifact.edits import replay
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.quantization.tables import SCHEMES
from compresskit.training.context import Context


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "codebook"])
def test_result_is_rebuilt_from_its_edits_bit_for_bit(scheme, run, net_class):
    result = run(scheme=scheme)
    with torch.device("meta"):
        rebuilt = net_class()
    replay(rebuilt, result.loaded.edits)
    rebuilt = rebuilt.to_empty(device="cpu").eval()
    rebuilt.load_state_dict(result.loaded.module.state_dict(), strict=True)
    inputs = torch.randn(4, 3, 8, 8)
    assert torch.equal(rebuilt(inputs), result.loaded.module(inputs))
    assert result.facts["folded_batchnorms"] == 1
    assert [row["layer"] for row in result.tables["quantized layers"]] == ["stem.0", "left", "right", "head"]


@pytest.mark.parametrize(
    "scheme, least_db", [("int8-weight", 35), ("int8-static", 25), ("int8-dynamic", 25), ("float8-weight", 25)]
)
def test_outputs_stay_close(scheme, least_db, run, loaded_net):
    result, reference = run(scheme=scheme), loaded_net().module
    inputs = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted, ours = reference(inputs), result.loaded.module(inputs)
    assert 10 * torch.log10(wanted.square().sum() / (wanted - ours).square().sum()) > least_db
    assert all(row["output_sqnr_db"] > least_db - 5 for row in result.tables["quantized layers"])


def test_static_quantizes_what_the_addition_touches(run):
    layers = quantized_layers(run(scheme="int8-static").loaded.module)
    assert {name for name, layer in layers.items() if layer.spec.output == "static"} == {"left", "right"}
    assert {name for name, layer in layers.items() if layer.spec.input == "static"} == {
        "stem.0",
        "left",
        "right",
        "head",
    }
    assert torch.equal(layers["left"].input_scale, layers["right"].input_scale)


def test_which_layers_get_which_bits(run):
    rows = run(scheme="int4-weight", skip=["left"], bits_for={"ri*": 3}).tables["quantized layers"]
    assert {row["layer"]: row["bits"] for row in rows} == {"stem.0": 8, "right": 3, "head": 8}
    rows = run(scheme="int2-weight", first_last="same", layers=["stem.*", "head"]).tables["quantized layers"]
    assert {row["layer"]: row["bits"] for row in rows} == {"stem.0": 2, "head": 2}
    rows = run(scheme="int4-weight", first_last="keep").tables["quantized layers"]
    assert [row["layer"] for row in rows] == ["left", "right"]


def test_bytes_by_kind_add_up(run):
    result = run(scheme="int4-weight", first_last="same", fold_batchnorm=False)
    facts = result.facts
    weights = 8 * 3 * 9 + 8 * 2 * 9 + 8 * 8 + 5 * 8
    assert facts["values_bytes"] == weights // 2
    assert facts["scales_bytes"] == 2 * (8 + 8 + 8 + 5)
    total = sum(tensor.numel() * tensor.element_size() for tensor in result.loaded.module.state_dict().values())
    assert facts["tensor_bytes"] == total
    assert facts["size_label"] == "stored"


def test_tied_weights_stay_in_float_and_are_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mid, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.mid(self.embed(ids)))

    loaded = Loaded(Tied().eval(), {}, torch.tensor([[1, 2]]))
    result = quantize(loaded, QuantizeOptions(), Context(original=loaded))
    assert list(quantized_layers(loaded.module)) == ["mid"]
    assert [note.split(" ")[0] for note in result.notes] == ["embed", "head"]
    assert loaded.module.head.weight is loaded.module.embed.weight


@pytest.mark.parametrize(
    "options, match",
    [
        ({"skip": ["lefft"]}, "no layer matches 'lefft'; did you mean 'left'"),
        ({"skip": ["*"]}, "no layer is left to quantize"),
        ({"bits_for": {"nowhere": 4}}, "no layer matches 'nowhere'"),
    ],
)
def test_bad_layer_patterns_are_refused(options, match, run):
    with pytest.raises(InputError, match=match):
        run(**options)


def test_static_without_data_is_refused(loaded_net):
    loaded = loaded_net()
    with pytest.raises(InputError, match="add --data"):
        quantize(loaded, QuantizeOptions(scheme="int8-static"), Context(original=loaded))


def test_a_transformer_layer_computes_the_same_with_and_without_gradients():
    torch.manual_seed(0)
    loaded = Loaded(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), {}, torch.randn(1, 5, 8))

    class Sequences:
        def calibration(self, samples, *, batch_size=64, seed=0):
            return [torch.randn(16, 5, 8, generator=torch.Generator().manual_seed(seed))]

    quantize(loaded, QuantizeOptions(scheme="int8-static"), Context(original=loaded.clone(), data=Sequences()))
    inputs = torch.randn(3, 5, 8)
    with torch.no_grad():
        fused_if_allowed = loaded.module(inputs)
    # the fused path would take the quantized weights, and skip the quantized activations
    torch.testing.assert_close(fused_if_allowed, loaded.module(inputs).detach(), rtol=1e-5, atol=1e-5)
    assert {name for name, layer in quantized_layers(loaded.module).items() if layer.spec.input == "static"} >= {
        "linear1",
        "linear2",
    }
    rebuilt = replay(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), loaded.edits).eval()
    rebuilt.load_state_dict(loaded.module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt(inputs), fused_if_allowed)


@pytest.mark.parametrize("scheme", ["int8-static", "int8-dynamic"])
def test_layers_whose_activations_stay_in_float_are_named(scheme):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    class Sequences:
        def calibration(self, samples, *, batch_size=64, seed=0):
            return [torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(seed))]

    loaded = Loaded(Recurrent().eval(), {}, torch.randn(1, 5, 4))
    context = Context(original=loaded.clone(), data=Sequences())
    result = quantize(loaded, QuantizeOptions(scheme=scheme, first_last="same"), context)
    assert [note for note in result.notes if "lstm" in note] == [
        "lstm: weights only, recurrent layers keep their activations in float"
    ]
    layers = quantized_layers(loaded.module)
    assert layers["lstm"].spec.input == "none" and layers["head"].spec.input == scheme.removeprefix("int8-")


@pytest.mark.slow
def test_a_trained_network_keeps_its_accuracy(shared_dir, cifar_dir):
    weights = str(shared_dir / "models" / "resnet20_cifar10.safetensors")
    original = load_model("builtin:cifar_resnet20", weights=weights)
    context = Context(original=original, data=open_data(f"imagefolder:{cifar_dir}", original.preprocessing))
    metric = make_metric("top1")

    def top1(module):
        return metric(module, context.data.batches("test", batch_size=250)).value

    def after(**options):
        loaded = original.clone()
        quantize(loaded, QuantizeOptions(calibration_samples=256, **options), context)
        return top1(loaded.module)

    float_top1 = top1(original.module)
    assert float_top1 > 0.84
    assert after(scheme="int8-static") > float_top1 - 0.01
    int4 = {"scheme": "int4-weight", "bias_correction": True, "reconstruct": "none"}
    assert after(**int4, rounding="gptq") > float_top1 - 0.02


EVERY_FORM = [
    *({"scheme": name} for name in SCHEMES),
    {"scheme": "int4-weight", "coding": "huffman"},
    {"scheme": "codebook", "bits": 5, "coding": "huffman"},
    {"scheme": "int4-weight", "granularity": "group", "weight_range": "affine", "awq": True},
    {"scheme": "int8-static", "smooth": 0.5, "equalize": True, "bias_correction": True, "rounding": "gptq"},
    {"scheme": "int8-weight", "bits": 5, "bits_for": {"0": 2}, "first_last": "same"},
]


@pytest.mark.integration
@pytest.mark.parametrize("options", EVERY_FORM, ids=str)
def test_artifacts_reload_with_bit_equal_outputs_and_take_their_bytes(tmp_path, options):
    original = load_model("builtin:digits_cnn")
    loaded = original.clone()
    context = Context(original=original, data=open_data("digits", original.preprocessing))
    result = quantize(
        loaded, QuantizeOptions(**options | {"calibration_samples": 64} if needs_data(options) else options), context
    )
    artifact.save(loaded, tmp_path / "model")
    again = artifact.load(tmp_path / "model")
    inputs = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(again.module(inputs), loaded.module(inputs))
    # what the file adds to the tensors' own bytes is its header
    header = (tmp_path / "model" / "model.safetensors").stat().st_size - result.facts["tensor_bytes"]
    assert 0 < header < 4096


def needs_data(options):
    return QuantizeOptions(**options).needs_data()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_sub_byte_weights_take_their_bits_on_disk(tmp_path, bits):
    loaded = load_model("builtin:digits_cnn")
    result = quantize(loaded, QuantizeOptions(bits=bits, first_last="same"), Context(original=loaded))
    artifact.save(loaded, tmp_path / "model")
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    weights = sum(row["weights"] for row in result.tables["quantized layers"])
    biases = result.facts["float_bytes"]
    assert (size - biases) / (weights * bits / 8) < 1.05
