"""Metrics against hand-computed values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.intervals import interval
from compresskit.evaluation.metric_terms.classes import top1, top5
from compresskit.evaluation.metric_terms.numbers import mse
from compresskit.evaluation.metrics import make_metric
from compresskit.evaluation.tables import METRICS


def test_top1_and_top5_by_hand():
    outputs = torch.tensor([[6.0, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]])
    assert top1(outputs, torch.tensor([0, 0])).tolist() == [1, 0]
    assert top5(outputs, torch.tensor([4, 0])).tolist() == [1, 0]
    assert top5(outputs[:, :3], torch.tensor([2, 0])).tolist() == [1, 1]


def test_mse_by_hand():
    assert mse(torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[0.0, 0], [3, 4]])).tolist() == [2.5, 12.5]
    assert mse(torch.ones(2, 1), torch.zeros(2)).tolist() == [1, 1]
    assert make_metric("mse").drop(1.0, 1.5) == 0.5


def test_wilson_interval_by_hand():
    score = interval(torch.cat([torch.ones(8), torch.zeros(2)]))
    # Wilson score interval of 8 in 10 at 95 %
    assert (score.value, score.samples) == (pytest.approx(0.8), 10)
    assert score.low == pytest.approx(0.4901625, abs=1e-6)
    assert score.high == pytest.approx(0.9433178, abs=1e-6)


def test_normal_interval_by_hand():
    score = interval(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    half = 1.959964 * 1.2909944 / 2
    assert (score.low, score.high) == (pytest.approx(2.5 - half, abs=1e-5), pytest.approx(2.5 + half, abs=1e-5))


def test_agreement_compares_with_the_original():
    original, other = nn.Linear(3, 2), nn.Linear(3, 2)
    batches = [(torch.randn(50, 3), torch.zeros(50, dtype=torch.long))]
    metric = make_metric("agreement", original)
    assert metric(original, batches).value == 1
    expected = (original(batches[0][0]).argmax(1) == other(batches[0][0]).argmax(1)).float().mean()
    assert metric(other, batches).value == pytest.approx(expected.item())


def test_a_users_metric(tmp_path):
    (tmp_path / "m.py").write_text(
        "def worst(outputs, targets):\n    return (outputs - targets).abs().amax(1)\nworst.higher_is_better = False\n"
        "def wrong(outputs, targets):\n    return outputs.mean()\n"
    )
    metric = make_metric(f"{tmp_path}/m.py:worst")
    assert not metric.higher_is_better
    assert metric(nn.Identity(), [(torch.tensor([[1.0, -3]]), torch.zeros(1, 2))]).value == 3
    with pytest.raises(InputError, match="one value an example"):
        make_metric(f"{tmp_path}/m.py:wrong")(nn.Identity(), [(torch.ones(2, 2), torch.ones(2))])


def test_nan_outputs_are_refused():
    with pytest.raises(InputError, match="NaN on evaluation batch 1"):
        label = torch.zeros(1, dtype=torch.int64)
        make_metric("top1")(nn.Identity(), [(torch.ones(1, 2), label), (torch.full((1, 2), torch.nan), label)])


def test_training_mode_is_restored():
    module = nn.Dropout()
    make_metric("top1")(module.train(), [(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))])
    assert module.training


def test_float_targets_are_no_classes():
    for name in ("top1", "top5"):
        with pytest.raises(InputError, match=f"metric '{name}' compares classes, and the targets are floats"):
            make_metric(name)(nn.Identity(), [(torch.ones(3, 2), torch.tensor([0.5, 1.5, 2.0]))])


def test_a_users_function_of_a_data_set_and_class(tmp_path):
    (tmp_path / "m.py").write_text(
        "def spread(outputs, targets, power=1):\n    return (outputs.max() - outputs.min()) ** power\n"
        "spread.over_dataset = True\n"
        "class Count:\n"
        "    higher_is_better = False\n"
        "    def __init__(self):\n        self.count = 0\n"
        "    def update(self, outputs, targets):\n        self.count += len(outputs)\n"
        "    def compute(self):\n        return self.count\n"
        "class NoCompute:\n    def update(self, outputs, targets):\n        pass\n"
    )
    batches = [(torch.tensor([[1.0], [2.0]]), torch.zeros(2)), (torch.tensor([[5.0]]), torch.zeros(1))]
    spread = make_metric(f"{tmp_path}/m.py:spread", arguments={"power": 2})
    assert spread(nn.Identity(), batches).value == 16 and spread.name == "spread"
    count = make_metric(f"{tmp_path}/m.py:Count")
    assert count.value(nn.Identity(), batches) == 3 and not count.higher_is_better
    with pytest.raises(InputError, match="is a class without compute"):
        make_metric(f"{tmp_path}/m.py:NoCompute")
    with pytest.raises(InputError, match="unknown argument 'pwer'; did you mean 'power'"):
        make_metric(f"{tmp_path}/m.py:spread", arguments={"pwer": 2})


def test_a_metric_of_the_model_itself_runs_no_batches(tmp_path):
    (tmp_path / "m.py").write_text(
        "def biases(module, *, times=1):\n"
        "    return times * sum(name.endswith('bias') for name, _ in module.named_parameters())\n"
        "biases.takes_module = True\n"
        "def broken(module):\n"
        "    return 1 / 0\n"
        "broken.takes_module = True\n"
    )
    metric = make_metric(f"{tmp_path}/m.py:biases", arguments={"times": 3})
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert metric.takes_module and metric(net, []).value == metric.value(net, []) == 6
    with pytest.raises(InputError, match="metric 'broken' does not compute: ZeroDivisionError"):
        make_metric(f"{tmp_path}/m.py:broken")(net, [])


def test_a_drop_respects_direction_and_scale():
    share, own = make_metric("top1"), make_metric("mse")
    assert (share.scale, own.scale) == ("share", "own")
    assert share.allowed_drop("1%", 0.5) == pytest.approx(0.01) and own.allowed_drop("10%", 0.5) == pytest.approx(0.05)
    assert share.allowed_drop(0.02, 0.5) == own.allowed_drop(0.02, 0.5) == 0.02
    assert share.drop(0.9, 0.8) == pytest.approx(0.1) and own.drop(0.9, 0.8) == pytest.approx(-0.1)


def test_every_row_says_its_direction_and_scale():
    for name in METRICS:
        metric = make_metric(name)
        lower = {"mse", "mae", "cer", "wer", "fidelity", "perplexity", "kl"}
        assert metric.higher_is_better == (name not in lower), name
        own = {"mse", "mae", "r2", "psnr", "perplexity", "kl", "cosine"}
        assert metric.scale == ("own" if name in own else "share"), name
