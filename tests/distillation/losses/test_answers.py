"""Losses of outputs and of features, and the recovery that each task takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.core.types import Loaded
from compresskit.distillation.distill import recover_objective
from compresskit.distillation.losses.answers import FEATURES, relative_error
from compresskit.distillation.losses.logits import kd
from compresskit.distillation.losses.term import DistillationBatch, Setup
from compresskit.evaluation.losses import make_loss
from compresskit.evaluation.tasks import task_of
from compresskit.pruning.options import PruneOptions
from compresskit.training.context import Context

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self, width, outputs=2):
        super().__init__()
        torch.manual_seed(width)
        self.first, self.second = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x):
        return {"out": self.head(self.second(self.first(x).relu()).relu())}


class Boxes(Net):
    """Gives as many boxes as an image has bright places; computes its loss itself."""

    def forward(self, images, targets=None):
        x = torch.stack(images)
        y = super().forward(x)["out"]
        if self.training:
            return {"sum": y.square().mean(), "count": y.mean() * len(targets)}
        count = int(y.sum().abs()) % 4
        return [{"boxes": torch.zeros(count, 4), "labels": torch.zeros(count), "scores": torch.zeros(count)}] * len(x)


def loaded(module, example):
    return Loaded(module.eval(), {}, example)


def context_of(teacher, targets, example, loss=None):
    task = task_of(teacher.module(*example) if isinstance(example, tuple) else teacher.module(example), targets)
    return Context(teacher, task=task, loss=make_loss(loss) if loss else None), task.name


def test_relative_error_counts_stages_alike():
    x = torch.randn(2, 3, 4, 4)
    assert relative_error(x * 1.1, x).item() == pytest.approx(0.01, rel=1e-4)
    assert relative_error(x * 110, x * 100).item() == pytest.approx(0.01, rel=1e-4)


def test_features_of_fewer_channels_are_fitted_before_they_are_trained():
    teacher = torch.randn(4, 6, 5, 5)
    pairs = [(teacher[:, :3].clone(), teacher), (teacher.clone(), teacher)]
    term = FEATURES.make(Setup(DistillationBatch(torch.zeros(1, 1), torch.zeros(1, 1), features=pairs)))
    assert len(term.adapters) == 1
    # half of the channels are there: the others are what no linear map gives
    value = term.compute(DistillationBatch(torch.zeros(1, 1), torch.zeros(1, 1), features=pairs))
    assert value.item() == pytest.approx(0.25, abs=0.03)


def test_maps_recover_by_the_classes_of_each_pixel():
    x = torch.randn(2, 3, 8, 8)
    teacher, student = loaded(Net(6), x[:1]), Net(4)
    targets = torch.randint(0, 2, (2, 4, 4))
    context, name = context_of(teacher, targets, x)
    assert name == "segmentation"
    value = recover_objective(context, PruneOptions(ratio=0.5, recover="kd").recover)(student, x, targets)
    mine, theirs = (net(x)["out"] for net in (student, teacher.module))
    expected = 0.9 * kd(mine.movedim(1, -1), theirs.movedim(1, -1)) + 0.1 * F.cross_entropy(mine, targets)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    alone = recover_objective(context, PruneOptions(ratio=0.5, recover="kd", labels="ignore").recover)(student, x, None)
    assert alone.item() == pytest.approx(0.9 * kd(mine.movedim(1, -1), theirs.movedim(1, -1)).item(), rel=1e-5)


def test_numbers_recover_by_their_squared_error():
    x = torch.randn(2, 3, 8, 8)
    teacher, student = loaded(Net(6), x[:1]), Net(4)
    targets = torch.randn(2, 2, 4, 4)
    context, name = context_of(teacher, targets, x)
    assert name == "regression"
    value = recover_objective(context, PruneOptions(ratio=0.5, recover="kd").recover)(student, x, targets)
    mine, theirs = (net(x)["out"] for net in (student, teacher.module))
    assert value.item() == pytest.approx((0.9 * F.mse_loss(mine, theirs) + 0.1 * F.mse_loss(mine, targets)).item())


@pytest.mark.parametrize("labels", ["use", "ignore"])
def test_boxes_recover_by_their_features(labels):
    images = ([torch.randn(3, 8, 8)],)
    batch, targets = ([torch.randn(3, 8, 8) for _ in range(2)],), [{"boxes": torch.zeros(1, 4)}] * 2
    teacher, student = loaded(Boxes(6), images), loaded(Boxes(4), images)
    context, name = context_of(teacher, targets, batch, "model")
    assert name == "detection"
    options = PruneOptions(ratio=0.5, recover="kd", labels=labels).recover
    objective = recover_objective(context, options, student)
    assert len(objective.adapters) == 1  # the last stage has as many channels in both
    value = objective(student.module.train(), batch, targets)
    own = sum(loss.item() for loss in student.module(*batch, targets).values())
    assert set(objective.parts) == ({"task", "features"} if labels == "use" else set())
    features = objective.parts["features"].item() if labels == "use" else value.item()
    assert features > 0 and value.item() == pytest.approx(features + (own if labels == "use" else 0), rel=1e-5)
    value.backward()
    assert student.module.first.weight.grad.abs().sum() > 0 and student.module.training


def test_labels_are_ignored_only_where_the_original_teaches():
    with pytest.raises(ValueError, match="labels ignore would be ignored: recover is 'finetune'"):
        PruneOptions(ratio=0.5, recover="finetune", labels="ignore")
