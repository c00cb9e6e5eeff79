"""Task, loss and metric of a run: told from one batch where they are not named."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.opening import open_context
from compresskit.pipeline.recipe import RecipeOptions

CODE = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(90, 8)
def _splits(y):
    return (x[:60], y[:60]), (x[60:], y[60:])
def floats():
    return _splits((x[:, :4].sum(1) * 5).round())
def classes():
    return _splits((x[:, 0] > 1).long())
def regression():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)


def opened(**options):
    lines = []
    return open_context(RecipeOptions(device="cpu", **options), lines.append), lines


def test_whole_numbered_floats_are_numbers_and_the_choice_is_said():
    context, lines = opened(model="net.py:regression", data="net.py:floats")
    assert (context.task.name, context.metric.name, context.metric.higher_is_better) == ("regression", "mse", False)
    assert any(
        "task regression (floats [2] as targets, floats [2, 1] as outputs): loss mse, metric mse" in x for x in lines
    )
    context, lines = opened(model="net.py:regression", data="net.py:floats", metric="r2", task_loss="huber")
    assert context.metric.name == "r2" and not any("task regression" in line for line in lines)


def test_classes_and_their_weights():
    context, lines = opened(
        model="net.py:classifier", data="net.py:classes", task_loss="ce", task_loss_arg={"class_weights": "balanced"}
    )
    weights = context.loss.keywords["class_weights"]
    _, targets = next(iter(context.data.batches("train", batch_size=60)))
    shares = [float((targets == label).float().mean()) for label in (0, 1)]
    assert weights == pytest.approx([1 / (2 * share) for share in shares], rel=1e-4)
    assert context.metric.name == "top1"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task_loss_arg": {"delta": 1}}, "task_loss_arg delta needs a loss by name"),
        ({"metric_arg": {"ignore_index": 1}}, "metric_arg ignore_index needs a metric by name"),
        ({"task_loss": "huber", "task_loss_arg": {"detla": 1}}, "unknown argument 'detla'; did you mean 'delta'"),
        ({"metric": "psnr", "metric_arg": {"range": 1}}, "metric_arg of metric 'psnr': unknown argument 'range'"),
    ],
)
def test_what_does_not_fit(given, says):
    with pytest.raises(InputError, match=says):
        opened(model="net.py:regression", data="net.py:floats", **given)


def test_whole_numbered_floats_are_classes_where_a_task_of_classes_is_asked_for():
    Path("data.py").write_text(
        "import torch\nx = torch.randn(90, 8)\n"
        "def whole():\n    y = (x[:, 0] > 1).float()\n    return (x[:60], y[:60]), (x[60:], y[60:])\n"
        "def stream():\n    parts = [(x[i : i + 9], (x[i : i + 9, 0] > 1).float()) for i in (0, 9, 18)]\n"
        "    return parts[:2], parts[2:]\n"
        "def shares():\n    y = torch.rand(90)\n    return (x[:60], y[:60]), (x[60:], y[60:])\n"
    )
    for name in ("whole", "stream"):
        context, lines = opened(model="net.py:classifier", data=f"data.py:{name}", task="classification")
        assert context.metric.name == "top1"
        inputs, targets = next(iter(context.data.batches("train", batch_size=9)))
        assert targets.dtype.is_floating_point is False and targets.tolist() == (inputs[:, 0] > 1).long().tolist()
    with pytest.raises(InputError, match="which is no class; leave the task to auto"):
        opened(model="net.py:classifier", data="data.py:shares", task="classification")


@pytest.mark.parametrize(("given", "taken"), [(1, 3), (3, 1)])
def test_data_of_other_channels_name_the_argument_that_mends_it(given, taken):
    shape = f"torch.rand(20, {given}, 8, 8), torch.arange(20) % 2"
    Path("images.py").write_text(
        f"""
import torch
from torch import nn
def data():
    return ({shape}), ({shape})
def net():
    return nn.Sequential(nn.Conv2d({taken}, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
"""
    )
    names = {"model": "images.py:net", "data": "images.py:data"}
    with pytest.raises(InputError, match=f"try --data-arg channels={taken}$"):
        opened(**names)
    context, _ = opened(**names, data_arg={"channels": taken})
    assert context.data.input_shape == (taken, 8, 8)
