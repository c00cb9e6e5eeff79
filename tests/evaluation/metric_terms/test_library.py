"""States of torchmetrics, kept by groups of examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.metrics import make_metric


@pytest.fixture(autouse=True)
def _torchmetrics():
    pytest.importorskip("torchmetrics")


def test_a_class_of_torchmetrics_by_its_name():
    metric = make_metric("torchmetrics.regression:MeanAbsoluteError")
    x = torch.randn(300, 2)
    score = metric(nn.Identity(), [(x, torch.zeros(300, 2))])
    assert score.value == pytest.approx(x.abs().mean().item(), rel=1e-5)
    assert not metric.higher_is_better and score.low < score.value < score.high


def test_arguments_of_a_class():
    x, y = torch.randn(50, 4), torch.randint(0, 4, (50,))
    score = make_metric(
        "torchmetrics.classification:MulticlassAccuracy", arguments={"num_classes": 4, "average": "micro"}
    )
    assert score(nn.Identity(), [(x, y)]).value == pytest.approx((x.argmax(1) == y).float().mean().item())


def test_groups_of_examples_give_the_interval_of_examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 1, generator=generator)
    library = make_metric("torchmetrics.regression:MeanSquaredError")
    batches = [(x[i : i + 256], torch.zeros(256, 1)) for i in range(0, 1024, 256)]
    grouped, formula = library(nn.Identity(), batches), make_metric("mse")(nn.Identity(), batches)
    assert grouped.value == pytest.approx(formula.value, rel=1e-5)
    assert grouped.high - grouped.low == pytest.approx(formula.high - formula.low, rel=0.35)


def test_a_state_that_cannot_be_divided_is_refused(tmp_path):
    (tmp_path / "m.py").write_text(
        "import torch\nfrom torchmetrics import Metric\n"
        "class Largest(Metric):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.add_state('most', torch.tensor(0.0), dist_reduce_fx='max')\n"
        "    def update(self, outputs, targets):\n        self.most = torch.maximum(self.most, outputs.max())\n"
        "    def compute(self):\n        return self.most\n"
    )
    with pytest.raises(InputError, match="its state 'most' is neither summed nor concatenated"):
        make_metric(f"{tmp_path}/m.py:Largest")(nn.Identity(), [(torch.ones(2, 1), torch.ones(2, 1))])
