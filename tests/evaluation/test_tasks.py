"""The task that a batch shows, and what it decides."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.tasks import task_of

BOXES = [{"boxes": torch.zeros(1, 4), "labels": torch.zeros(1, dtype=torch.long)}] * 2


def ints(*shape, high=2):
    return torch.randint(0, high, shape)


@pytest.mark.parametrize(
    ("outputs", "targets", "name", "loss", "metric"),
    [
        (torch.randn(4, 3), ints(4), "classification", "ce", "top1"),
        (torch.randn(4, 5), ints(4, 5), "multilabel", "bce", "f1"),
        (torch.randn(3, 4), torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]), "multilabel", "bce", "f1"),
        (torch.randn(2, 3), torch.eye(3)[:2], "regression", "mse", "mse"),
        (torch.randn(2, 3), torch.ones(2, 3), "regression", "mse", "mse"),
        (torch.randn(3, 1), torch.tensor([[0.0], [1.0], [1.0]]), "multilabel", "bce", "f1"),
        ({"out": torch.randn(2, 3, 8, 8)}, ints(2, 8, 8), "segmentation", "ce", "miou"),
        (torch.randn(2, 6, 9), ints(2, 6), "tokens", "ce", "top1"),
        (torch.randn(2, 12, 5), ints(2, 4), "transcription", "ctc", "cer"),
        (torch.randn(12, 2, 5), ints(2, 4), "transcription", "ctc", "cer"),
        (torch.randn(4, 1), torch.tensor([1.0, 2.0, 3.0, 20.0]), "regression", "mse", "mse"),
        (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), "regression", "mse", "mse"),
        ([{"boxes": torch.zeros(0, 4)}] * 2, BOXES, "detection", "model", "map"),
        (torch.randn(2, 3), None, "unlabelled", "model", "fidelity"),
        (torch.randn(2, 3), {"any": torch.zeros(2)}, "own", "model", "fidelity"),
    ],
)
def test_the_task_that_a_batch_shows(outputs, targets, name, loss, metric):
    found = task_of(outputs, targets)
    assert (found.name, found.loss, found.metric) == (name, loss, metric)


def test_a_named_task_is_taken_as_it_is():
    assert task_of(torch.randn(4, 1), torch.rand(4), "classification").metric == "top1"


def test_what_no_task_is_known_for():
    with pytest.raises(InputError, match="no loss is known for .*; name one with --task-loss"):
        task_of(torch.randn(4, 3), torch.zeros(4, dtype=torch.complex64))
    with pytest.raises(InputError, match="no tensor in a model output of type str.*--task-loss"):
        task_of("text", ints(4))
