"""The distill technique end to end on the digits."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from compresskit.core.data import open_data
from compresskit.core.errors import InputError
from compresskit.core.metrics import make_metric
from compresskit.core.options import TrainOptions
from compresskit.core.source import load_model
from compresskit.core.train import train
from compresskit.core.types import Context
from compresskit.distillation.distill import distill, recover_objective
from compresskit.distillation.options import DistillOptions


@pytest.fixture(scope="module")
def digits():
    return open_data("digits", load_model("builtin:digits_mlp").preprocessing)


@pytest.fixture(scope="module")
def teacher(digits):
    loaded = load_model("builtin:digits_mlp")
    context = Context(loaded, digits, make_metric("top1"))
    train(loaded, TrainOptions(epochs=8, lr=0.1, batch_size=64), context)
    return loaded


def make_context(teacher, digits, **rest) -> Context:
    return Context(teacher.clone(), digits, make_metric("top1"), load=load_model, **rest)


def accuracy(loaded, digits) -> float:
    return make_metric("top1")(loaded.module, digits.batches("test", batch_size=256)).value


def test_a_new_student_learns_from_the_current_model_without_any_labels(teacher, digits):
    options = DistillOptions(
        student="builtin:digits_cnn_small", task_weight=0, loss_weight={"kd": 1}, epochs=8, lr=0.1, batch_size=64
    )
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    assert result.loaded.source["name"] == "digits_cnn_small"
    assert accuracy(result.loaded, digits) > 0.85
    assert result.facts["teacher"] == ["digits_mlp"]


def test_by_default_the_current_model_recovers_from_the_original(teacher, digits):
    damaged = teacher.clone()
    with torch.no_grad():
        damaged.module[1].weight[::2] = 0
    before = accuracy(damaged, digits)
    result = distill(damaged, DistillOptions(epochs=2, lr=0.02), make_context(teacher, digits))
    assert result.loaded is damaged
    assert accuracy(damaged, digits) > before


def test_the_teacher_is_left_as_it_was(teacher, digits):
    context = make_context(teacher, digits)
    before = {name: value.clone() for name, value in context.original.module.state_dict().items()}
    distill(teacher.clone(), DistillOptions(epochs=0.2), context)
    after = context.original.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in context.original.module.parameters())


def test_an_ensemble_answers_with_the_mean_of_probabilities(teacher, digits):
    from compresskit.distillation.models import Teacher

    other = load_model("builtin:digits_mlp", seed=3)
    both = Teacher([teacher, other], teacher.preprocessing, torch.device("cpu"))
    inputs, _ = next(iter(digits.batches("test", batch_size=8)))
    with torch.no_grad():
        expected = (teacher.module(inputs).softmax(1) + other.module(inputs).softmax(1)) / 2
    assert torch.allclose(both(inputs).softmax(1), expected, atol=1e-6)


def test_recovery_by_distillation_is_hintons_loss(teacher, digits):
    context = make_context(teacher, digits)
    objective = recover_objective(context, TrainOptions())
    student = load_model("builtin:digits_mlp", seed=3).module
    inputs, targets = next(iter(digits.batches("test", batch_size=8)))
    loss = objective(student, inputs, targets)
    with torch.no_grad():
        logits, taught = student(inputs), teacher.module(inputs)
        soft = (taught / 4).softmax(1)
        divergence = (soft * (soft.log() - (logits / 4).log_softmax(1))).sum(1).mean()
        expected = 0.9 * 16 * divergence + 0.1 * torch.nn.functional.cross_entropy(logits, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_models_with_other_classes_are_refused(teacher, digits):
    options = DistillOptions(student="builtin:digits_cnn_small")
    context = make_context(teacher, digits)
    context.load = lambda string: load_model(string, model_args={"num_classes": 7})
    with pytest.raises(InputError, match=r"student's output has shape \[2, 7\] and the teacher's \[2, 10\]"):
        distill(teacher.clone(), options, context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": ["kdd"]}, "unknown distillation loss 'kdd'; did you mean 'kd'"),
        ({"loss_weight": {"kdd": 1}}, "loss_weight names 'kdd', which is not among the losses; did you mean 'kd'"),
        ({"loss_weight": {"kd": -1}}, "weight of kd must not be negative"),
        ({"teacher": ["a", "b"], "teacher_weights": ["x"]}, "1 teacher_weights for 2 teachers"),
        ({"student_weights": "x"}, "student_weights needs student"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DistillOptions(**options)
