"""Learned step size: the paper's gradients by hand, and training that reaches what was stored."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.artifact.edits import replay
from compresskit.core.types import Loaded, Preprocessing
from compresskit.data.dataset import Data
from compresskit.data.loaders import splits_of
from compresskit.evaluation.tasks import Task
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.qat import (
    distill_objective,
    dropped,
    gradient_factor,
    learned_step,
    make_distill_objective,
    take_over,
    trainable,
)
from compresskit.quantization.quantize import quantize
from compresskit.quantization.transforms.folding import fold_batchnorm
from compresskit.training.context import Context


def test_gradients_of_equations_three_and_five():
    values = torch.tensor([0.7, -0.3, 5.0, -9.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    quantized = learned_step(values, step, -2, 1, 1.0)
    # v / s = 1.4, -0.6, 10, -18, clipped to -2..1
    assert quantized.tolist() == [0.5, -0.5, 0.5, -1.0]
    quantized.sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0, 0.0]
    # 1 (clipped above), -1 + 0.6 (inside), 1, -2
    assert float(step.grad) == pytest.approx(1 - 0.4 + 1 - 2)


def test_the_factor_scales_only_the_gradient_of_the_step():
    results = []
    for factor in (1.0, 0.25):
        values, step = torch.randn(20).requires_grad_(), torch.tensor(0.3, requires_grad=True)
        torch.manual_seed(0)
        values.data.copy_(torch.randn(20))
        output = learned_step(values, step, -4, 3, factor)
        output.square().sum().backward()
        results.append((output.detach(), values.grad, step.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][2] * 0.25, results[1][2])
    assert gradient_factor(100, 4) == pytest.approx(1 / 20)


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "int8-static"},
        {"scheme": "int4-weight", "granularity": "group", "group_size": 5, "weight_range": "affine"},
        {"scheme": "int2-weight", "first_last": "same"},
        {"scheme": "int8-dynamic", "smooth": 0.5},
    ],
    ids=str,
)
def test_untrained_it_computes_what_the_quantized_model_computes_and_takes_back_the_same(run, options):
    quantized = run(**options).loaded.module
    inputs = torch.randn(4, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    # weights that lie on the grid are rounded to themselves
    twin = nn.Module()
    twin.get_submodule = lambda path: _with_plain_weights(quantized.get_submodule(path))
    shadow = trainable(quantized, twin)
    with torch.no_grad():
        wanted, found = quantized(inputs), shadow(inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    take_over(shadow, quantized)
    after = quantized.state_dict()
    assert all(torch.allclose(before[name].float(), after[name].float(), rtol=1e-6) for name in before)


def _with_plain_weights(layer):
    plain = nn.Module()
    for name in layer.spec.parameters:
        plain.register_parameter(name, nn.Parameter(layer.dequantized(name).detach().clone()))
    return plain


@pytest.mark.integration
def test_training_moves_weights_and_steps_and_the_result_still_reloads(loaded_net, net_class, images):
    loaded = loaded_net()
    context = Context(original=loaded.clone(), data=images((3, 8, 8)))
    # tuned blocks would leave training nothing to gain
    options = QuantizeOptions(scheme="int8-static", bits=2, first_last="same", reconstruct="none")
    quantized = quantize(loaded, options, context).loaded.module
    float_model = loaded_net()
    fold_batchnorm(float_model)
    shadow = trainable(quantized, float_model.module)
    names = [name for name, _ in shadow.named_parameters()]
    assert {"left.weight_float", "left.weight_step", "left.input_step", "left.output_step"} <= set(names)
    inputs = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    teacher = float_model.module
    optimizer = torch.optim.Adam(shadow.parameters(), 2e-3)

    def distance(module):
        return F.mse_loss(module(inputs), teacher(inputs).detach())

    start = distance(quantized).item()
    for _ in range(80):
        optimizer.zero_grad()
        distance(shadow).backward()
        optimizer.step()
    take_over(shadow, quantized)
    assert distance(quantized).item() < 0.5 * start
    assert distance(quantized).item() == pytest.approx(distance(shadow).item(), rel=0.1)
    with torch.device("meta"):
        rebuilt = net_class()
    replay(rebuilt, loaded.edits)
    rebuilt = rebuilt.to_empty(device="cpu").eval()
    rebuilt.load_state_dict(quantized.state_dict(), strict=True)
    assert torch.equal(rebuilt(inputs), quantized(inputs))


def test_soft_targets_by_hand():
    class Fixed(nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = torch.tensor([logits])

        def forward(self, inputs):
            return self.logits.expand(len(inputs), -1)

    targets = torch.tensor([0])
    loss = distill_objective(Fixed([4.0, 0.0]))(Fixed([0.0, 0.0]), torch.zeros(1), targets)
    soft = torch.tensor([4.0, 0.0]).div(4).softmax(0)
    divergence = float((soft * (soft / 0.5).log()).sum())
    assert float(loss) == pytest.approx(0.9 * 16 * divergence + 0.1 * float(torch.log(torch.tensor(2.0))), rel=1e-5)


class Detector(nn.Module):
    """In training mode a mapping of losses, in eval mode the boxes above a threshold, as torchvision's detectors."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, images, targets=None):
        found = self.head(self.body(images[0] if isinstance(images, list) else images).relu())
        if self.training:
            return {"loss": (found - 1).square().mean()}
        return [{"boxes": row[None, :4], "scores": row[4:]} for row in found if row[4] > 0]


def test_of_boxes_the_layers_that_they_are_read_from_are_compared():
    inputs = torch.randn(6, 3)
    teacher, student = Detector(), Detector()
    loaded = Loaded(teacher, {}, inputs[:1], name="d")
    context = Context(loaded, task=Task("detection", "model", "map", "features"))
    objective = make_distill_objective(loaded, "ignore", context)
    student.train()
    student.load_state_dict(teacher.state_dict())
    assert objective(student, inputs, None).item() == 0
    with torch.no_grad():
        student.head.bias += 2
        wanted = teacher.head(teacher.body(inputs).relu())
    value = objective(student, inputs, None)
    assert value.item() == pytest.approx(4 / wanted.var().item(), rel=1e-5)
    value.backward()
    assert student.body.weight.grad is not None and student.training
    hard = make_distill_objective(loaded, "use", context)(student, inputs, [{}] * 6)
    own = (student.head(student.body(inputs).relu()) - 1).square().mean()
    assert hard.item() == pytest.approx(0.9 * value.item() + 0.1 * own.item(), rel=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize(("lr", "kept"), [(1e-3, "trained"), (0.5, "post-training")])
def test_training_that_ends_below_rounding_by_data_leaves_the_weights(lr, kept, loaded_net):
    examples = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    splits = splits_of((examples, examples.mean((1, 2, 3)).gt(0).long()), "own")
    data = Data("own", splits, Preprocessing())

    def quantized(**options):
        loaded = loaded_net()
        result = quantize(loaded, QuantizeOptions(scheme="int4-weight", **options), Context(loaded.clone(), data=data))
        return result.facts, result.loaded.module.state_dict()

    facts, state = quantized(qat="kd", lr=lr, epochs=2, optimizer="adamw")
    _, untrained = quantized()
    same = all(torch.equal(state[name], untrained[name]) for name in untrained)
    assert facts["qat"]["weights"] == kept and same == (kept == "post-training")
    assert (facts["qat"]["held_out_loss_after"] < facts["qat"]["held_out_loss_before"]) == (kept == "trained")
    assert facts["rounding"] == "gptq"


def test_nothing_is_dropped_under_vmap_which_draws_nothing():
    values, quantized = torch.randn(4, 3), torch.zeros(4, 3)
    assert torch.equal(torch.vmap(lambda q, v: dropped(q, v, 0.9))(quantized, values), quantized)
    kept = dropped(torch.zeros(10_000), torch.ones(10_000), 0.3).mean()
    assert 0.25 < float(kept) < 0.35
