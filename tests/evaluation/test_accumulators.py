"""Values of examples, functions of all examples, and states that are updated."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.accumulators import Dataset, Examples, Updates, accumulator


def batches(count=4, size=50):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 1, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]


def error(outputs, targets):
    return (outputs - targets).square().mean()


class Mean:
    def __init__(self, power=2.0):
        self.power, self.total, self.count = power, 0.0, 0

    def update(self, outputs, targets):
        self.total += float((outputs - targets).abs().pow(self.power).sum())
        self.count += len(outputs)

    def compute(self):
        return self.total / self.count


def test_three_forms_of_one_metric_agree_in_value_and_interval():
    per_example = Examples(lambda a, b: (a - b).square().mean(1), "m")
    forms = [per_example, Dataset(error), Updates(Mean)]
    for form in forms:
        for outputs, targets in batches():
            form.add(outputs, targets)
    scores = [form.score() for form in forms]
    for score in scores[1:]:
        assert score.value == pytest.approx(scores[0].value)
        assert score.samples == 200
        assert score.high - score.low == pytest.approx(scores[0].high - scores[0].low, rel=0.35)
        assert score.low < score.value < score.high


def test_a_value_alone_makes_no_replicas():
    made = []

    class Counted(Mean):
        def __init__(self):
            super().__init__()
            made.append(self)

    found = accumulator(Counted, "m", intervals=False)
    found.add(torch.ones(2, 1), torch.zeros(2, 1))
    assert found.value() == 1 and len(made) == 1


def test_what_a_metric_must_return():
    with pytest.raises(InputError, match=r"metric 'm' must return one value an example, \(2,\), or say over_dataset"):
        Examples(lambda a, b: a.mean(), "m").add(torch.ones(2, 3), torch.ones(2))
    whole = Dataset(lambda a, b: a)
    whole.add(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(InputError, match=r"must compute one number, got a tensor \[2, 3\]"):
        whole.value()


def test_structures_of_a_data_set():
    whole = Dataset(lambda outputs, targets: sum(len(o["boxes"]) for o in outputs) / len(targets))
    for count in (1, 2):
        whole.add([{"boxes": torch.zeros(count, 4)}], [{"labels": torch.zeros(1)}])
    assert whole.value() == 1.5 and whole.score().samples == 2


def test_replicas_that_got_none_of_few_examples_compute_nothing():
    class Share:
        right = count = 0

        def update(self, outputs, targets):
            self.right, self.count = self.right + int((outputs == targets).sum()), self.count + len(targets)

        def compute(self):
            return self.right / self.count

    found = accumulator(Share, "share")
    found.add(torch.tensor([1, 0]), torch.tensor([1, 1]))  # one in seven replicas takes neither
    score = found.score()
    assert (score.value, score.low, score.high) == (0.5, 0.0, 1.0)
