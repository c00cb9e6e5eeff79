"""Metrics of classes, by hand and against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.classes import top1, top5
from compresskit.evaluation.metrics import make_metric


def score(name, outputs, targets, **arguments):
    parts = [slice(0, 30), slice(30, None)] if len(targets) > 30 else [slice(None)]
    return make_metric(name, arguments=arguments)(nn.Identity(), [(outputs[part], targets[part]) for part in parts])


def test_accuracy_of_pixels_and_tokens_by_hand():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0] = 1  # the upper row is of class 1
    assert top1(logits, torch.tensor([[[1, 0], [0, 0]]])).tolist() == [0.75]
    assert top1(logits, torch.tensor([[[1, 0], [-100, -100]]])).tolist() == [0.5]
    assert top1(logits.flatten(2).movedim(1, -1), torch.tensor([[1, 1, 0, 1]])).tolist() == [0.75]
    assert top1(torch.zeros(1, 3), torch.tensor([9]), ignore_index=9).tolist() == [1]
    assert top5(torch.arange(7.0)[None].repeat(2, 1), torch.tensor([1, 2])).tolist() == [0, 1]


@pytest.fixture(scope="module")
def classes():
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (80,), generator=generator)
    return torch.randn(80, 3, generator=generator) + 2 * nn.functional.one_hot(targets, 3), targets


@pytest.mark.integration
def test_f1_and_auroc_are_those_of_scikit_learn(classes):
    from sklearn.metrics import f1_score, roc_auc_score

    outputs, targets = classes
    f1, auroc = score("f1", outputs, targets), score("auroc", outputs, targets)
    assert f1.value == pytest.approx(f1_score(targets, outputs.argmax(1), average="macro"), abs=1e-6)
    assert auroc.value == pytest.approx(roc_auc_score(targets, outputs.softmax(1), multi_class="ovr"), abs=1e-6)
    assert f1.low < f1.value < f1.high and auroc.low < auroc.value < auroc.high
    labels = nn.functional.one_hot(targets, 3)
    assert score("f1", outputs, labels).value == pytest.approx(
        f1_score(labels, outputs > 0, average="macro", zero_division=0), abs=1e-6
    )
    assert score("auroc", outputs[:, :1], labels[:, 0]).value == pytest.approx(
        roc_auc_score(labels[:, 0], outputs[:, 0]), abs=1e-6
    )


def test_mean_iou_by_hand():
    pytest.importorskip("torchmetrics")
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0] = 1
    targets = torch.tensor([[[1, 0], [0, 0]]])
    # class 0: 2 of 3 pixels, class 1: 1 of 2, class 2 does not occur
    assert score("miou", logits, targets).value == pytest.approx((2 / 3 + 1 / 2) / 2)
    ignored = torch.tensor([[[1, 255], [0, 0]]])
    assert score("miou", logits, ignored, ignore_index=255).value == 1
    mask = torch.tensor([[[[1.0, -1], [-1, -1]]]])
    assert score("miou", mask, targets[:, None]).value == 1


def test_floats_are_refused():
    pytest.importorskip("torchmetrics")
    with pytest.raises(InputError, match="compares classes, and the targets are floats; choose r2"):
        score("f1", torch.randn(4, 3), torch.rand(4))
