"""The distill technique end to end on the digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.distillation.distill import distill, recover_objective
from compresskit.distillation.options import DistillOptions
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions


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


def write_images(folder, images):
    """Grey images in [0, 1], (count, 1, height, width), as files in two folders."""
    image = pytest.importorskip("PIL.Image")
    for number, one in enumerate(images):
        (folder / f"part{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = (one[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        image.fromarray(pixels).save(folder / f"part{number % 2}" / f"{number:04d}.png")


def accuracy(loaded, digits) -> float:
    return make_metric("top1")(loaded.module, digits.batches("test", batch_size=256)).value


@pytest.mark.integration
def test_a_new_student_learns_from_the_current_model_without_any_labels(teacher, digits):
    options = DistillOptions(
        student="builtin:digits_cnn_small", task_weight=0, loss_weight={"kd": 1}, epochs=8, lr=0.1, batch_size=64
    )
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    assert result.loaded.source["name"] == "digits_cnn_small"
    assert accuracy(result.loaded, digits) > 0.85
    assert result.facts["teacher"] == ["digits_mlp"]


@pytest.mark.integration
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
        ({"student_args": {"width": 2}}, "student_args needs student"),
        ({"teacher_args": {"width": 2}}, "teacher_args needs teacher"),
        ({"student": "builtin:lenet5", "student_width": 0.5}, "give only one of them"),
        ({"labels": "ignore", "task_weight": 0.5}, "task_weight 0.5 needs labels"),
        ({"hint_epochs": 1}, "hint_epochs would be ignored"),
        ({"loss": ["fitnet"], "hint_anneal": 4}, "hint_anneal would be ignored"),
        ({"loss": ["fitnet"], "hint_epochs": 1, "hint_anneal": 1}, "hint_anneal"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DistillOptions(**options)


def test_a_student_made_from_the_teacher_is_narrower_and_learns(teacher, digits):
    options = DistillOptions(student_width=0.25, epochs=4, lr=0.1, batch_size=64)
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    assert sum(p.numel() for p in result.loaded.module.parameters()) < 0.3 * sum(
        p.numel() for p in teacher.module.parameters()
    )
    assert result.loaded.edits
    assert accuracy(result.loaded, digits) > 0.85


def test_features_are_matched_shown_and_their_adapters_left_behind(teacher, digits):
    lines = []
    options = DistillOptions(
        student="builtin:digits_mlp", student_args={"hidden": 32}, loss=["vid", "hidden"], epochs=0.2
    )
    result = distill(teacher.clone(), options, make_context(teacher, digits, log=lines.append))
    assert [row["student layer"] for row in result.tables["matched layers"]] == ["2", "4"]
    assert "2 (32) learns from 2 (256)" in lines
    plain = load_model("builtin:digits_mlp", model_args={"hidden": 32})
    assert result.loaded.module.state_dict().keys() == plain.module.state_dict().keys()
    assert {"loss_vid", "loss_hidden", "loss_task"} <= result.facts["history"][-1].keys()


def test_layers_can_be_named(teacher, digits):
    options = DistillOptions(student="builtin:digits_mlp", loss=["at"], layers={"2": "4"}, epochs=0.1)
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    assert [(row["student layer"], row["teacher layer"]) for row in result.tables["matched layers"]] == [("2", "4")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": ["at"], "layers": {"9": "2"}}, "the student has no layer '9'"),
        ({"loss": ["at"], "layers": {"2": "9"}}, "the teacher has no layer '9'"),
        ({"layers": {"2": "2"}}, "layers would be ignored: kd takes no features"),
        ({"loss": ["dkd"], "loss_arg": {"dkd.bta": 1}}, "loss_arg 'dkd.bta' is no setting .* did you mean 'dkd.beta'"),
        ({"loss": ["dkd"], "labels": "ignore"}, "labels are ignored, and a chosen loss needs them"),
        ({"loss": ["dkd"], "mixup": 0.2}, "mixup and cutmix blend targets"),
        ({"loss": ["attention"]}, "makes no call of scaled_dot_product_attention"),
        ({"loss": ["at"], "cache": "somewhere"}, "cache keeps logits only, and at needs more"),
        ({"loss_weight": {"kd": 0}, "task_weight": 0}, "all weights are 0"),
        ({"unlabelled": "nowhere"}, "unlabelled 'nowhere' is neither a folder nor an .npz"),
    ],
)
def test_what_does_not_fit_the_models_is_refused(teacher, digits, options, message):
    with pytest.raises(InputError, match=message):
        distill(teacher.clone(), DistillOptions(epochs=0.1, **options), make_context(teacher, digits))


def test_fitnets_two_stages(teacher, digits):
    options = DistillOptions(
        student="builtin:digits_mlp", student_args={"hidden": 32}, loss=["fitnet"], hint_epochs=2, epochs=0.2
    )
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    hint = result.facts["hint"]["history"]
    assert len(hint) == 2
    assert hint[-1]["loss"] < hint[0]["loss"]
    assert {"loss_task", "loss_kd"} <= result.facts["history"][0].keys()


def test_the_hint_stage_leaves_the_layers_above_the_hint_alone(teacher, digits):
    from compresskit.distillation.distill import _hint_stage
    from compresskit.distillation.models import Teacher

    student = load_model("builtin:digits_mlp", model_args={"hidden": 32}, seed=1)
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    options = DistillOptions(loss=["fitnet"], layers={"2": "2"}, hint_epochs=0.5)
    _hint_stage(
        student, Teacher([teacher], teacher.preprocessing, torch.device("cpu")), options, make_context(teacher, digits)
    )
    after = student.module.state_dict()
    assert not torch.equal(before["1.weight"], after["1.weight"])
    for name in ("3.weight", "3.bias", "5.weight", "5.bias"):
        assert torch.equal(before[name], after[name])


def test_after_the_hints_the_weight_falls_from_four_times_to_its_own(teacher, digits):
    from compresskit.distillation.losses.logits import kd
    from compresskit.distillation.models import Teacher
    from compresskit.distillation.plan import make_plan

    student = load_model("builtin:digits_mlp", seed=3)
    options = DistillOptions(loss=["fitnet"], hint_epochs=1, hint_anneal=4, task_weight=1, temperature=3)
    models = Teacher([teacher], teacher.preprocessing, torch.device("cpu"))
    objective = make_plan(student, models, options, make_context(teacher, digits), ["kd"], first=4.0).objective
    inputs, targets = next(iter(digits.batches("test", batch_size=8)))
    with torch.no_grad():
        logits, taught = student.module(inputs), teacher.module(inputs)
        task = torch.nn.functional.cross_entropy(logits, targets)
        for step, factor in ((0, 4.0), (50, 2.5), (100, 1.0)):
            objective.begin_step(torch.arange(8), step, 100)
            expected = task + factor * 0.9 * kd(logits, taught, temperature=3)
            assert objective(student.module, inputs, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_fitnets_second_stage_is_annealed(teacher, digits):
    options = {
        "student": "builtin:digits_mlp", "student_args": {"hidden": 16}, "loss": ["fitnet"], "hint_epochs": 0.2,
        "epochs": 1, "keep": "last", "lr": 1e-6,
    }  # fmt: skip
    parts = [
        distill(teacher.clone(), DistillOptions(**options, **more), make_context(teacher, digits)).facts["history"][0]
        for more in ({}, {"hint_anneal": 4})
    ]
    # at a tiny learning rate nothing changes but the weight, which is 2.5 times as large on average
    assert parts[1]["loss_kd"] == pytest.approx(2.5 * parts[0]["loss_kd"], rel=0.1)
    assert parts[1]["loss_task"] == pytest.approx(parts[0]["loss_task"], rel=1e-3)


@pytest.mark.integration
def test_crd_resumes_exactly_with_its_memory(teacher, digits, tmp_path):
    from compresskit.distillation import distill as module

    options = DistillOptions(
        student="builtin:digits_mlp",
        student_args={"hidden": 16},
        loss=["crd"],
        epochs=2,
        checkpoint_steps=2,
        loss_arg={"crd.negatives": 64},
        keep="last",
    )
    whole = distill(teacher.clone(), options, make_context(teacher, digits))
    calls = 0
    original = module.Objective.__call__

    def dying(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return original(self, *arguments)

    module.Objective.__call__ = dying
    try:
        with pytest.raises(KeyboardInterrupt):
            distill(teacher.clone(), options, make_context(teacher, digits, folder=tmp_path))
    finally:
        module.Objective.__call__ = original
    resumed = distill(teacher.clone(), options, make_context(teacher, digits, folder=tmp_path))
    assert resumed.facts["resumed_from_step"] == 6
    first, second = whole.loaded.module.state_dict(), resumed.loaded.module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("changes", [{}, {"augment": ["crop"], "mixup": 0.2}])
def test_cached_logits_are_computed_once_and_change_nothing(teacher, digits, tmp_path, changes):
    options = {"student": "builtin:digits_mlp", "student_args": {"hidden": 16}, "epochs": 2, "keep": "last", **changes}
    plain = distill(teacher.clone(), DistillOptions(**options), make_context(teacher, digits))
    first = distill(teacher.clone(), DistillOptions(cache=str(tmp_path), **options), make_context(teacher, digits))
    again = distill(teacher.clone(), DistillOptions(cache=str(tmp_path), **options), make_context(teacher, digits))
    seen = 2 * (digits.size("train") // 128) * 128
    assert first.facts["teacher_logits_computed"] + first.facts["teacher_logits_found"] == seen
    assert first.facts["teacher_logits_computed"] == (seen if changes else digits.size("train")) or not changes
    assert again.facts["teacher_logits_computed"] == 0
    for result in (first, again):
        for name, value in plain.loaded.module.state_dict().items():
            assert torch.allclose(value, result.loaded.module.state_dict()[name], atol=1e-5), name


@pytest.mark.integration
def test_inputs_without_labels_teach_through_the_teacher_alone(teacher, digits, tmp_path):
    inputs = torch.cat([inputs for inputs, _ in digits.batches("train", batch_size=512)])
    np.savez(tmp_path / "images.npz", x=inputs.numpy())
    options = DistillOptions(
        student="builtin:digits_mlp",
        student_args={"hidden": 64},
        unlabelled=str(tmp_path / "images.npz"),
        epochs=8,
        lr=0.1,
        batch_size=64,
    )
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    assert "loss_task" not in result.facts["history"][0]
    assert accuracy(result.loaded, digits) > 0.85


@pytest.mark.integration
def test_a_folder_of_images_without_labels_teaches_too(teacher, digits, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        distill(
            teacher.clone(), DistillOptions(unlabelled=str(tmp_path / "images")), make_context(teacher, digits)
        )  # fmt: skip
    inputs = torch.cat([inputs for inputs, _ in digits.batches("train", batch_size=512)])[:400]
    write_images(tmp_path / "images", inputs)
    options = DistillOptions(
        student="builtin:digits_mlp", student_args={"hidden": 64}, unlabelled=str(tmp_path / "images"), epochs=20,
        lr=0.1, batch_size=64,
    )  # fmt: skip
    result = distill(teacher.clone(), options, make_context(teacher, digits))
    assert "loss_task" not in result.facts["history"][0]
    assert len(result.facts["history"]) == 20
    assert accuracy(result.loaded, digits) > 0.75


def test_losses_between_examples_say_what_they_see_under_torchrun(monkeypatch, teacher, digits):
    from compresskit.distillation.distill import _warn_of_shares

    lines = []
    context = make_context(teacher, digits, log=lines.append)
    _warn_of_shares(["rkd"], context)
    assert lines == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    _warn_of_shares(["kd", "rkd", "sp"], context)
    assert len(lines) == 1 and lines[0].startswith("rkd, sp: each of 2 processes compares the examples of its own part")
    _warn_of_shares(["kd"], context)
    assert len(lines) == 1


def test_a_teacher_assistant_by_two_steps_of_a_recipe(digits_model, tmp_path):
    from compresskit.artifact.artifact import load
    from compresskit.pipeline.recipe import validate
    from compresskit.pipeline.runner import Run, run

    common = {"epochs": 4, "lr": 0.1, "batch_size": 64}
    steps = [
        {"distill": {"student_width": 0.5, **common}},  # the assistant learns from the original
        {"distill": {"student_width": 0.5, **common}},  # the student learns from the assistant, now the current model
    ]
    recipe = validate({"model": str(digits_model), "data": "digits", "latency_rounds": 0, "steps": steps})
    report = run(Run(recipe, tmp_path / "out"))
    original, assistant, student = (
        one["parameters"] for one in (report["original"], *(step["measurement"] for step in report["steps"]))
    )
    assert student < 0.35 * assistant < 0.12 * original
    teachers = [step["facts"]["teacher"][0] for step in report["steps"]]
    assert teachers[1].endswith("at width 0.5, depth 1") and teachers[0] != teachers[1]
    loaded = load(tmp_path / "out")
    assert sum(p.numel() for p in loaded.module.parameters()) == student
    assert report["steps"][1]["measurement"]["metric"]["value"] > 0.6
