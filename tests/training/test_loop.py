"""The training loop: it learns, resumes exactly, keeps masks, and says what is wrong."""

from __future__ import annotations

import csv
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train, train_step
from compresskit.training.options import TrainOptions, TrainStepOptions


class Killed(BaseException):
    """Stands for kill -9: nothing in the loop catches it."""


@pytest.fixture(scope="module")
def digits():
    return open_data("digits", load_model("builtin:digits_mlp").preprocessing)


def make_context(digits, loaded, **rest) -> Context:
    return Context(original=loaded.clone(), data=digits, metric=make_metric("top1"), **rest)


def small(**args):
    return load_model("builtin:digits_mlp", model_args={"hidden": 32}, **args)


def weights_of(loaded) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loaded.module.state_dict().items()}


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.integration
def test_training_from_scratch_learns_the_digits(digits):
    loaded = small()
    context = make_context(digits, loaded)
    facts = train(loaded, TrainOptions(epochs=8, lr=0.1, batch_size=64), context)
    assert context.metric(loaded.module, digits.batches("test", batch_size=256)).value > 0.9
    assert facts["history"][0]["loss"] > 2 * facts["history"][-1]["loss"]
    assert not loaded.module.training
    assert facts["train_steps"] == 8 * (digits.size("train") // 64)


def test_same_seed_same_weights_other_seed_other_weights(digits):
    results = []
    for seed in (0, 0, 1):
        loaded = small()
        train(loaded, TrainOptions(epochs=1, keep="last"), make_context(digits, loaded, seed=seed))
        results.append(weights_of(loaded))
    assert_equal_weights(results[0], results[1])
    assert not torch.equal(results[0]["1.weight"], results[2]["1.weight"])


def test_training_leaves_the_callers_random_state_alone(digits):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(loaded := small(), TrainOptions(epochs=0.1), make_context(digits, loaded))
    assert torch.equal(before, torch.random.get_rng_state())


class KilledAt:
    """Cross-entropy that dies at the given step, once."""

    def __init__(self, step: int):
        self.calls, self.step = 0, step

    def __call__(self, module, inputs, targets):
        self.calls += 1
        if self.calls == self.step:
            raise Killed
        return nn.functional.cross_entropy(module(inputs), targets)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"optimizer": "adamw", "lr": 1e-3, "ema": 0.9},
        {"mixup": 0.4, "augment": ["crop"], "grad_clip": 1.0},
        {"keep": "last", "lr_schedule": "one-cycle"},
        {"precision": "bfloat16"},
        {"precision": "float16"},
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(digits, tmp_path, extra):
    def with_dropout():
        loaded = small()
        layers = list(loaded.module)
        loaded.module = nn.Sequential(*layers[:3], nn.Dropout(0.2), *layers[3:])
        return loaded

    def mixed_loss(kill, module, inputs, targets):
        first = targets.first if hasattr(targets, "first") else targets
        return kill(module, inputs, first)

    options = TrainOptions(epochs=3, batch_size=128, checkpoint_steps=3, **extra)
    whole = with_dropout()
    facts = train(whole, options, make_context(digits, whole), objective=partial(mixed_loss, KilledAt(10**9)))
    killed = with_dropout()
    with pytest.raises(Killed):
        train(
            killed, options, make_context(digits, killed, folder=tmp_path), objective=partial(mixed_loss, KilledAt(18))
        )
    again = with_dropout()
    resumed = train(
        again, options, make_context(digits, again, folder=tmp_path), objective=partial(mixed_loss, KilledAt(10**9))
    )
    assert resumed["resumed_from_step"] == 15
    assert_equal_weights(weights_of(whole), weights_of(again))
    for row, other in zip(facts["history"], resumed["history"], strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}


class Noisy(Dataset):
    """Digits under noise from the global generator."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index] + 0.1 * torch.randn(1, 8, 8), self.labels[index]


class NoisyStream(IterableDataset):
    """The same as a stream, which draws as it is read."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __iter__(self):
        pairs = zip(self.images, self.labels, strict=True)
        return ((image + 0.1 * torch.randn(1, 8, 8), label) for image, label in pairs)


@pytest.mark.parametrize("kind", [Noisy, NoisyStream])
@pytest.mark.integration
def test_a_killed_run_over_random_data_resumes_to_the_same_weights_with_other_workers(digits, tmp_path, kind):
    images, labels = next(iter(digits.batches("train", batch_size=400)))
    source = DataLoader(Noisy(images, labels), num_workers=1) if kind is Noisy else NoisyStream(images, labels)
    options = TrainOptions(epochs=2, batch_size=64, checkpoint_steps=2, norm_batches=0)

    def run(workers, kill_at, folder=None):
        with named_objects({"d": (source, (images[:40], labels[:40]))}):
            data = open_data("in-memory:d", workers=workers)
        loaded = small()
        facts = train(loaded, options, make_context(data, loaded, folder=folder), objective=KilledAt(kill_at))
        return loaded, facts

    whole, _ = run(None, 10**9)
    with pytest.raises(Killed):
        run(2, 4, tmp_path)
    again, facts = run(0, 10**9, tmp_path)
    assert facts["resumed_from_step"] == 2
    assert_equal_weights(weights_of(whole), weights_of(again))


def test_a_stream_that_ends_before_its_length_is_named(digits):
    class Short(NoisyStream):
        def __len__(self):
            return 500

    images, labels = next(iter(digits.batches("train", batch_size=200)))
    with named_objects({"d": (Short(images, labels), (images[:40], labels[:40]))}):
        data = open_data("in-memory:d")
    loaded = small()
    with pytest.raises(InputError, match="the training examples ended in batch 3 of 7; the stream holds fewer"):
        train(loaded, TrainOptions(epochs=2, batch_size=64, norm_batches=0), make_context(data, loaded))


def test_a_finished_run_is_not_run_again(digits, tmp_path):
    options = TrainOptions(epochs=1)
    first, second = small(), small()
    train(first, options, make_context(digits, first, folder=tmp_path))
    facts = train(second, options, make_context(digits, second, folder=tmp_path), objective=KilledAt(1))
    assert_equal_weights(weights_of(first), weights_of(second))
    assert facts["resumed_from_step"] == facts["train_steps"]


def test_another_option_does_not_take_the_old_checkpoint(digits, tmp_path):
    first, second = small(), small()
    train(first, TrainOptions(epochs=1), make_context(digits, first, folder=tmp_path))
    facts = train(second, TrainOptions(epochs=1, lr=0.02), make_context(digits, second, folder=tmp_path))
    assert facts["resumed_from_step"] == 0


def test_a_damaged_checkpoint_is_named(digits, tmp_path):
    loaded = small()
    train(loaded, TrainOptions(epochs=0.1), make_context(digits, loaded, folder=tmp_path))
    next(tmp_path.glob("training-*.safetensors")).write_bytes(b"nonsense")
    again = small()
    with pytest.raises(InputError, match="is damaged .* delete it"):
        train(again, TrainOptions(epochs=0.1), make_context(digits, again, folder=tmp_path))


def test_bitmap_zeros_stay_zero_and_the_rest_moves(digits):
    loaded = small()
    weight = loaded.module[1].weight
    with torch.no_grad():
        weight[:, ::2] = 0
    before = weight.detach().clone()
    loaded.storage["1.weight"] = "bitmap"
    train(loaded, TrainOptions(epochs=1, optimizer="adamw", ema=0.5), make_context(digits, loaded))
    after = loaded.module[1].weight.detach()
    assert (after[:, ::2] == 0).all()
    assert not torch.equal(after[:, 1::2], before[:, 1::2])


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_mend(digits):
    loaded = small()
    with pytest.raises(InputError, match=r"loss became (nan|inf) at step \d+ of .*lower lr \(now 1e\+06\)"):
        train(loaded, TrainOptions(epochs=3, lr=1e6, warmup=0), make_context(digits, loaded))


@pytest.mark.integration
def test_early_stop_keeps_the_best_weights(digits):
    loaded = small()
    context = make_context(digits, loaded)
    train(loaded, TrainOptions(epochs=10, lr=0.1), context)
    # from here on, an absurd learning rate only makes it worse
    facts = train(loaded, TrainOptions(epochs=20, lr=3.0, warmup=0, lr_schedule="constant", early_stop=2), context)
    assert facts["stopped_early"]
    assert len(facts["history"]) < 20
    values = [row["val_top1"] for row in facts["history"]]
    assert facts["best_val_top1"] == max(values)
    kept = context.metric(loaded.module, digits.batches("val", batch_size=256)).value
    assert kept == max(values)


def test_without_data_the_mend_is_named():
    loaded = small()
    with pytest.raises(InputError, match="training needs data"):
        train(loaded, TrainOptions(), Context(original=loaded))


def test_a_model_without_parameters_is_refused(digits):
    loaded = small()
    loaded.module.requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match="no trainable parameters"):
        train(loaded, TrainOptions(), make_context(digits, loaded))


def test_train_limit_and_fractions_of_an_epoch(digits):
    loaded = small()
    facts = train(loaded, TrainOptions(epochs=1.5, batch_size=32, train_limit=100), make_context(digits, loaded))
    assert facts["train_examples"] == 100
    assert facts["train_steps"] == math.ceil(1.5 * 3)
    assert [row["epoch"] for row in facts["history"]] == [1.0, round(5 / 3, 4)]


def test_fewer_examples_than_a_batch_are_one_step(digits):
    loaded = small()
    facts = train(loaded, TrainOptions(epochs=2, batch_size=64, train_limit=10), make_context(digits, loaded))
    assert facts["train_steps"] == 2


def test_training_along_adapters(digits):
    loaded = small()
    adapter = nn.Linear(10, 10)
    before = adapter.weight.detach().clone()
    train(
        loaded,
        TrainOptions(epochs=0.2),
        make_context(digits, loaded),
        extra_modules=[adapter],
        objective=lambda module, inputs, targets: nn.functional.cross_entropy(adapter(module(inputs)), targets),
    )
    assert not torch.equal(adapter.weight, before)


def test_without_a_metric_the_validation_loss_decides(digits):
    loaded = small()
    context = Context(original=loaded.clone(), data=digits)
    facts = train(loaded, TrainOptions(epochs=2), context)
    assert facts["best_val_loss"] == min(row["val_loss"] for row in facts["history"])


def test_the_train_step_writes_its_log_and_curves(digits, tmp_path):
    loaded = small()
    result = train_step(loaded, TrainStepOptions(epochs=2), make_context(digits, loaded, folder=tmp_path))
    with open(tmp_path / "training.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in result.facts["history"]]
    drawing = result.files["loss_curves.svg"].read_text()
    assert drawing.count("<polyline") == 2  # loss and validation metric
    assert result.loaded is loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 63}, "batch_size 63 does not divide over 2 processes"),
        ({"batch_size": 64, "train_limit": 7}, "7 training examples do not divide over 2 processes"),
    ],
)
def test_batches_that_do_not_divide_over_processes_are_refused(digits, monkeypatch, options, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    loaded = small()
    with pytest.raises(InputError, match=message):
        train(loaded, TrainOptions(**options), make_context(digits, loaded))


def test_sharding_in_one_process_is_refused(digits):
    loaded = small()
    with pytest.raises(InputError, match="sharding fsdp needs several processes; start with torchrun"):
        train(loaded, TrainOptions(sharding="fsdp"), make_context(digits, loaded))


def test_sharding_cannot_hold_zeros(digits):
    loaded = small()
    loaded.storage["1.weight"] = "bitmap"
    with pytest.raises(InputError, match="sharding fsdp cannot hold the zeros"):
        train(loaded, TrainOptions(sharding="fsdp"), make_context(digits, loaded))
