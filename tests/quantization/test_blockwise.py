"""Quantizing block by block: what the layers before did is seen, and scaling changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.dataflow import trace
from compresskit.artifact import artifact
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, call, main_output
from compresskit.quantization.blockwise import round_layers, scale_inputs
from compresskit.quantization.check import check
from compresskit.quantization.layers.quantized_layer import Quantized
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.plan import make_plan
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_mixtures import mixture_folder


def _loaded() -> tuple[Loaded, list[torch.Tensor]]:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU()) for _ in range(3)]
    net = nn.Sequential(*blocks, nn.Linear(8, 5)).eval()
    batches = [torch.randn(64, 8) + 0.5 for _ in range(3)]
    return Loaded(net, {}, batches[0][:1]), batches


def _plans(loaded: Loaded, options: QuantizeOptions):
    return make_plan(loaded.module, trace(loaded.module, loaded.example), options)[0]


def _outputs(loaded: Loaded, batches) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([call(loaded.module, one) for one in batches])


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_bias_correction_takes_out_what_the_layers_before_added_too(rounding):
    loaded, batches = _loaded()
    wanted = _outputs(loaded, batches).mean(0)
    options = QuantizeOptions(
        scheme="int4-weight", bits=2, bias_correction=True, rounding=rounding, first_last="same", granularity="tensor"
    )
    plans = _plans(loaded, options)
    done = [plan.name for plan, _ in round_layers(loaded, plans, batches, options, Context(loaded), [])]
    assert done == [plan.name for plan in plans] and isinstance(loaded.module[0][0], Quantized)
    # the last layer stands alone in its block, so its mean is what it was whatever rounding did before it
    torch.testing.assert_close(_outputs(loaded, batches).mean(0), wanted, rtol=1e-4, atol=1e-4)


def test_blocks_that_are_done_keep_no_weights_in_float():
    """Quantized layers keep what they dequantize between forwards; of a whole model that would be its size."""
    loaded, batches = _loaded()
    options = QuantizeOptions(scheme="int4-weight", rounding="gptq", first_last="same")
    keeping = set()
    for _plan, _spec in round_layers(loaded, _plans(loaded, options), batches, options, Context(loaded), []):
        keeping.add(frozenset(name for name, one in loaded.module.named_modules() if "_kept" in vars(one)))
    # only layers of the block at hand, whose first layer was read to see what the second gets
    assert not any(len({name.partition(".")[0] for name in names}) > 1 for names in keeping)
    assert not any("_kept" in vars(one) for one in loaded.module.modules())


def test_layers_whose_inputs_cannot_be_followed_are_rounded_all_the_same():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4)).eval()
    loaded, batches = Loaded(net, {}, torch.arange(3)[None]), [torch.randint(0, 10, (4, 3))]
    options = QuantizeOptions(scheme="int4-weight", rounding="gptq")
    names = [
        plan.name for plan, _ in round_layers(loaded, _plans(loaded, options), batches, options, Context(loaded), [])
    ]
    assert sorted(names) == ["0", "1"] and isinstance(net[0], Quantized) and isinstance(net[1], Quantized)


@pytest.mark.parametrize("given", [{"scheme": "int4-weight", "awq": True}, {"scheme": "int8-static", "smooth": 0.5}])
@pytest.mark.integration
def test_scaled_inputs_change_nothing_but_the_weights(given):
    loaded, batches = _loaded()
    wanted, weight = _outputs(loaded, batches), loaded.module[1][0].weight.clone()
    options = QuantizeOptions(**given)
    plans = _plans(loaded, options)
    scale_inputs(loaded, plans, batches, options, Context(loaded))
    torch.testing.assert_close(_outputs(loaded, batches), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(loaded.module[1][0].weight, weight)
    assert [edit["target"] for edit in loaded.edits] == [plan.name for plan in plans]


def test_explain_shows_the_blocks_and_patterns_name_others():
    loaded, _ = _loaded()
    found = quantize(loaded.clone(), QuantizeOptions(explain=True), Context(loaded)).tables["blocks"]
    assert [row["block"] for row in found] == ["0.0 .. 0.3", "1.0 .. 1.3", "2.0 .. 2.3", "3"]
    options = QuantizeOptions(explain=True, blocks=["1.2"])
    found = quantize(loaded.clone(), options, Context(loaded)).tables["blocks"]
    assert "1.2" in [row["block"] for row in found]
    with pytest.raises(ValueError, match="blocks would be ignored"):
        QuantizeOptions(blocks=["1.2"])
    with pytest.raises(InputError, match="no module matches '9'"):
        check(loaded, QuantizeOptions(explain=True, blocks=["9"]), Context(loaded))


def _mean_change(loaded: Loaded, original: Loaded, batches) -> float:
    with torch.no_grad():
        pairs = [(main_output(call(one.module, b)) for one in (loaded, original)) for b in batches]
        return sum(float((got - wanted).square().mean()) for got, wanted in pairs)


@pytest.mark.integration
@pytest.mark.parametrize("family", ["Mixtral", "GptOss"])
def test_experts_are_quantized_by_the_tokens_that_are_routed_to_each(family, tmp_path):
    original = mixture_folder(tmp_path / "model", family)
    generator = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(0, 64, (16, 12), generator=generator)} for _ in range(4)]
    changes = {}
    for rounding in ("nearest", "gptq"):
        loaded = original.clone()
        options = QuantizeOptions(
            scheme="int4-weight", granularity="group", group_size=16, rounding=rounding, bits=3, layers=["*experts"]
        )
        plans = _plans(loaded, options)
        assert [plan.spec.parameters for plan in plans] == [("gate_up_proj", "down_proj")] * 2
        for plan, spec in round_layers(loaded, plans, batches, options, Context(original), []):
            loaded.edits.append(spec.as_edit(plan.name))
        changes[rounding] = _mean_change(loaded, original, batches)
        experts = loaded.module.get_submodule(plans[0].name)
        float_experts = original.module.get_submodule(plans[0].name)
        assert isinstance(experts, Quantized) and experts.gate_up_proj.shape == float_experts.gate_up_proj.shape
        assert experts.weight_elements == sum(p.numel() for p in float_experts.parameters() if p.dim() == 3)
        error = (experts.down_proj - float_experts.down_proj).square().mean() / float_experts.down_proj.square().mean()
        assert error < 0.06
    assert changes["gptq"] < 0.8 * changes["nearest"]
    artifact.save(loaded, tmp_path / "artifact")
    again = artifact.load(tmp_path / "artifact")
    assert _mean_change(again, loaded, batches[:1]) == 0
    bytes_before = sum(p.numel() * 4 for name, p in original.module.named_parameters() if "experts" in name)
    bytes_after = sum(b.numel() * b.element_size() for name, b in again.module.named_buffers() if "experts" in name)
    assert bytes_after < bytes_before / 7


def test_a_projection_that_attention_reads_by_itself_is_rounded_to_nearest():
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)).eval()
    loaded, batches = Loaded(net, {}, torch.randn(1, 5, 8)), [torch.randn(4, 5, 8)]
    options, notes = QuantizeOptions(scheme="int4-weight", rounding="gptq"), []
    plans = _plans(loaded, options)
    assert [plan.name for plan in plans if "out_proj" in plan.name]
    done = [plan.name for plan, _ in round_layers(loaded, plans, batches, options, Context(loaded), notes)]
    assert sorted(done) == sorted(plan.name for plan in plans)
    assert notes == ["0.self_attn.out_proj: rounded to nearest, the calibration data never call it"]
