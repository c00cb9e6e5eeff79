"""Reconstruction of quantized blocks: nearer outputs in the same bits, few bits an activation, reloading."""

import pytest
import torch

from compresskit.artifact.edits import replay
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.qat import dropped, learned_step, trainable
from compresskit.quantization.quantize import quantize
from compresskit.quantization.transforms.folding import fold_batchnorm
from compresskit.training.context import Context


def distance(result, loaded_net):
    inputs = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return float((result.loaded.module(inputs) - loaded_net().module(inputs)).square().mean())


@pytest.mark.parametrize("scheme", ["int2-weight", "w2a4"])
@pytest.mark.integration
def test_reconstruction_brings_outputs_nearer_in_the_same_bits(run, loaded_net, scheme):
    plain = run(scheme=scheme, first_last="same", reconstruct="none")
    tuned = run(scheme=scheme, first_last="same", reconstruct="block", iterations=80, reconstruction_samples=512)
    assert distance(tuned, loaded_net) < 0.5 * distance(plain, loaded_net)
    assert tuned.facts["tensor_bytes"] == plain.facts["tensor_bytes"]
    rows = tuned.tables["reconstructed blocks"]
    assert sum(row["weights"] == "reconstructed" for row in rows) == tuned.facts["blocks_reconstructed"] > 0
    fell = [row["held_out_error_after"] < row["held_out_error_before"] for row in rows]
    assert fell == [row["weights"] == "reconstructed" for row in rows]


def test_activations_of_four_bits_but_eight_at_the_ends_and_a_reload_computes_the_same(run, net_class):
    loaded = run(scheme="w4a4", reconstruct="none").loaded
    specs = {name: layer.spec for name, layer in loaded.module.named_modules() if hasattr(layer, "spec")}
    assert {name: spec.input_bits for name, spec in specs.items()} == {
        "stem.0": 8, "left": 4, "right": 4, "head": 8,
    }  # fmt: skip
    assert {name: spec.bits for name, spec in specs.items()} == {"stem.0": 7, "left": 4, "right": 4, "head": 8}
    inputs = torch.randn(5, 3, 8, 8)
    seen = []
    handle = loaded.module.left.register_forward_hook(
        lambda layer, given, _out: seen.append(layer.quantize_input(given[0]))
    )
    wanted = loaded.module(inputs)
    handle.remove()
    assert len(seen[0].unique()) <= 16
    with torch.device("meta"):
        rebuilt = net_class()
    replay(rebuilt, loaded.edits)
    rebuilt = rebuilt.to_empty(device="cpu").eval()
    rebuilt.load_state_dict(loaded.module.state_dict(), strict=True)
    assert torch.equal(rebuilt(inputs), wanted)


def test_training_starts_from_the_codes_that_rounding_chose(run, loaded_net):
    quantized = run(scheme="int3-weight", rounding="gptq", reconstruct="none", first_last="same").loaded.module
    float_model = loaded_net()
    fold_batchnorm(float_model)
    shadow = trainable(quantized, float_model.module)
    for name in ("stem.0", "left", "right", "head"):
        torch.testing.assert_close(
            shadow.get_submodule(name).weight.detach(), quantized.get_submodule(name).weight, rtol=1e-5, atol=1e-6
        )
    moved = shadow.get_submodule("left").weight_float - float_model.module.left.weight
    assert float((moved != 0).float().mean()) < 0.5  # only where the code is not the nearest one


def test_the_gradient_of_a_step_of_four_bits_is_that_of_the_rounded_values_difference():
    torch.manual_seed(0)
    values, step = torch.randn(200).abs(), torch.tensor(0.13, dtype=torch.float64, requires_grad=True)
    learned_step(values.double(), step, 0, 15, 1.0).sum().backward()
    ratio = values.double() / 0.13
    by_hand = torch.where(ratio >= 15, 15.0, ratio.round() - ratio).sum()
    assert float(step.grad) == pytest.approx(float(by_hand))
    # clipped values move with the step exactly as a difference quotient says
    clipped = torch.tensor([9.0], dtype=torch.float64)
    step = step.detach()
    quotient = (learned_step(clipped, step + 1e-6, 0, 15, 1.0) - learned_step(clipped, step, 0, 15, 1.0)) / 1e-6
    assert float(quotient) == pytest.approx(15.0, rel=1e-4)


def test_dropping_leaves_the_share_in_float():
    torch.manual_seed(0)
    values = torch.rand(10_000)
    left = dropped(torch.zeros_like(values), values, 0.25)
    assert float((left != 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert bool(((left == 0) | (left == values)).all())


def test_training_at_four_bits_moves_the_steps_of_activations(loaded_net, images):
    loaded = loaded_net()
    context = Context(original=loaded.clone(), data=images((3, 8, 8)))
    quantized = quantize(loaded, QuantizeOptions(scheme="w4a4", reconstruct="none"), context).loaded.module
    float_model = loaded_net()
    fold_batchnorm(float_model)
    shadow = trainable(quantized, float_model.module)
    inputs = torch.randn(32, 3, 8, 8)
    (shadow(inputs) - float_model.module(inputs)).square().mean().backward()
    assert float(shadow.left.input_step.grad.abs()) > 0
    assert shadow.left.spec.input_bits == 4
