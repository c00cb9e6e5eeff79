"""Everything that can be found out in seconds is, before any work, and all of it at once."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch

from compresskit.artifact import artifact
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.pipeline.checks import preflight
from compresskit.pipeline.checks.preflight import check_rebuilding, checked_context, space_needed, uncoded_bytes
from compresskit.pipeline.plan import make_plan
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

NET = """
import random

import torch
from torch import nn

class Stateful(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.scale = 1 + random.SystemRandom().random()  # no seed reaches it

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.scale

def stateful():
    return Stateful()

def plain(classes: int = 10):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
    net.input_shape = (1, 8, 8)
    return net

def frozen():
    return plain().requires_grad_(False)

def one():
    return plain(1)

class Undifferentiable(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)).detach()

def undifferentiable():
    return Undifferentiable()

def broken_metric(outputs, targets):
    raise KeyError("labels")

def float_targets():
    x = torch.rand(40, 1, 8, 8)
    return (x, x.mean((1, 2, 3)) + 0.25), (x, x.mean((1, 2, 3)) + 0.25)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(*steps, model="net.py:plain", data="digits", **more):
    content = {"model": model, "latency_rounds": 0, "steps": list(steps), **more}
    return validate(content | ({"data": data} if data else {}))


def problems(checked, **more) -> list[str]:
    """The lines with which the checks refuse a recipe."""
    with pytest.raises(InputError) as refusal:
        checked_context(checked, lambda line: None, **more)
    return str(refusal.value).splitlines()


TRAIN = {"train": {"epochs": 1}}


@pytest.mark.parametrize(
    ("checked", "says"),
    [
        ({"model": "net.py:stateful"}, "model 'stateful': building it again gives another model"),
        ({"model": "net.py:frozen"}, "train: the model has no trainable parameters"),
        ({"model": "net.py:undifferentiable"}, "train: model 'undifferentiable' does not train on data 'digits'"),
        ({"metric": "net.py:broken_metric"}, "metric 'broken_metric' does not fit .*KeyError: 'labels'"),
        ({"data": "net.py:float_targets", "model": "net.py:one", "metric": "top1"}, "metric 'top1' compares classes"),
        (
            {"data": "net.py:float_targets", "metric": "agreement"},
            "train: targets of shape .2. do not fit outputs of shape",
        ),
    ],
)
def test_what_the_model_and_its_training_cannot_do_is_one_line(here, checked, says):
    lines = problems(recipe(TRAIN, **checked))
    assert len(lines) == 1
    assert re.match(says, lines[0]), lines


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"prune": {"ratio": 0.5, "protect": ["5*"]}}, "prune: no layer or group matches '5*'"),
        ({"prune": {"ratio": 0.5, "granularity": "weight", "protect": ["x"]}}, "prune: no layer matches 'x'"),
        ({"prune": {"ratio": 0.5, "granularity": "block"}}, "prune: model 'plain': no block passes"),
        ({"quantize": {"skip": ["head"]}}, "quantize: no layer matches 'head'"),
        ({"quantize": {"layers": ["*"], "skip": ["*"]}}, "quantize: no layer is left to quantize"),
        ({"quantize": {"target_bits": 3}}, "quantize: target_bits has nothing to choose"),
        (
            {"quantize": {"target_bits": 2, "first_last": "same", "candidate_bits": [4]}},
            "quantize: target_bits 2 leaves",
        ),
        ({"decompose": {"layers": ["conv*"]}}, "decompose: no layer matches 'conv*'"),
        ({"decompose": {"recompose": True}}, "decompose: recompose: the model has no factored layers"),
        ({"distill": {"teacher": "runs/nowhere"}}, "distill: model 'runs/nowhere' does not exist"),
        ({"distill": {"student": "builtin:lenet6"}}, "distill: "),
        ({"distill": {"teacher": "net.py:one"}}, "distill: the student's output has shape"),
        ({"distill": {"loss": "attention"}}, "distill: "),
        ({"distill": {"unlabelled": "nowhere"}}, "distill: unlabelled 'nowhere' is neither a folder"),
    ],
)
def test_a_step_that_would_be_refused_is_refused_before_the_training_in_front_of_it(here, step, says):
    (technique,) = step
    (line,) = problems(recipe(TRAIN, step))
    assert line.startswith(says.replace(f"{technique}:", f"steps.1 ({technique}):", 1))


def test_all_that_fails_is_said_at_once(here):
    (here / "file").write_text("")
    steps = (
        {"prune": {"ratio": 0.5, "recover": "kd", "min_speedup": 2}},
        {"quantize": {"scheme": "int8-static", "max_drop": 0.01}},
        {"distill": {}},
    )
    lines = problems(recipe(*steps, model="net.py:stateful", data=None), output=here / "file" / "out")
    assert [line.split(";")[0] for line in lines] == [
        "steps.0 (prune): recover kd needs data",
        "steps.0 (prune): min_speedup needs measured latency, and latency_rounds is 0",
        "steps.1 (quantize): max_drop needs data and scheme int8-static needs data",
        "steps.2 (distill): training needs data",
        f"cannot write below {str(here / 'file')!r}: {str(here / 'file')!r} is a file",
        "model 'stateful': building it again gives another model. Its constructor takes something besides its "
        "arguments (a generator without a seed, the time, a file that changed), or values that its forward reads stand "
        "outside of parameters and buffers",
    ]


def test_model_data_metric_and_device_fail_at_once(here):
    lines = problems(recipe(TRAIN, model="builtin:lenet6", data="digit", metric="math:top2", device="cuda:77"))
    assert len(lines) == 4
    for word, line in zip(("'top2'", "'cuda:77'", "'lenet6'", "'digit'"), lines, strict=True):
        assert word in line


def test_data_that_fail_hide_nothing_else(here):
    steps = ({"prune": {"ratio": 0.5, "protect": ["x"]}}, {"quantize": {"scheme": "int8-static", "skip": ["head"]}})
    lines = problems(recipe(TRAIN, *steps, data="npz:nowhere.npz", model="net.py:stateful"))
    assert [line.split(":")[0] for line in lines] == [
        "data file 'nowhere.npz' does not exist; choose from net.py",
        "model 'stateful'",
        "steps.1 (prune)",
    ]
    lines = problems(recipe(TRAIN, {"distill": {"teacher": ["net.py:one", "runs/nowhere"]}}, model="builtin:lenet6"))
    assert "lenet6" in lines[0] and lines[1].startswith("steps.1 (distill): model 'runs/nowhere' does not exist")
    assert len(lines) == 2


def test_a_missed_limit_of_bytes_is_foreseen_where_training_keeps_them(here):
    (line,) = problems(recipe({"train": {"max_bytes": 100}}))
    assert line.startswith("train: max_bytes is 100, the weights take 4,840")


@pytest.mark.parametrize("step", [TRAIN, {"quantize": {"scheme": "int8-weight"}}], ids=["train", "quantize"])
@pytest.mark.parametrize("limit", ["max_macs", "max_params"])
def test_limits_of_what_a_step_leaves_as_it_is_are_foreseen(here, step, limit):
    ((technique, options),) = step.items()
    (line,) = problems(recipe({technique: {**options, limit: "99%"}}))
    assert line.startswith(f"{technique}: {limit} is 0.99, ") and f"{technique} keeps that" in line
    assert checked_context(recipe({technique: {**options, limit: "100%"}}), lambda line: None)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"prune": {"target_bytes": "1GB"}}, "prune: target_bytes is 1,000,000,000 bytes, and the weights take 4,840"),
        ({"decompose": {"target_macs": "1G"}}, "decompose: target_macs is 1,000,000,000 MACs, and one forward takes"),
    ],
)
def test_a_budget_that_is_met_already_is_refused(here, step, says):
    (line,) = problems(recipe(step))
    assert line.startswith(says) and line.endswith("already; give less")


def test_names_behind_a_step_that_changes_layers_are_left_to_that_step(here):
    context = checked_context(
        recipe({"decompose": {"rank_by": "keep-ratio", "slower_layers": "allow"}}, {"quantize": {"skip": ["1.1"]}}),
        lambda line: None,
    )
    assert context.data is not None


def test_the_checks_leave_model_and_random_states_alone(here):
    steps = (TRAIN, {"prune": {"ratio": 0.5, "recover": "kd"}}, {"distill": {"loss": ["kd", "fitnet"]}})
    steps = (*steps, {"quantize": {"scheme": "int8-static", "qat": "kd"}})
    context = checked_context(recipe(TRAIN, model="builtin:digits_cnn"), lambda line: None)
    plain = {name: value.clone() for name, value in context.original.module.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    lines: list[str] = []
    context = checked_context(recipe(*steps, model="builtin:digits_cnn"), lines.append)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert all(torch.equal(value, plain[name]) for name, value in context.original.module.state_dict().items())
    assert all(parameter.grad is None for parameter in context.original.module.parameters())
    assert not context.original.module.training
    assert lines[-1].startswith("checked: model, rebuilding, data, metric, steps.0 (train), steps.1 (prune)")
    assert float(lines[-1].rpartition("; ")[2].removesuffix(" s")) < 20


def test_the_dry_run_and_the_run_check_the_same(here):
    wrong = recipe(TRAIN, {"quantize": {"skip": ["head"]}})
    for start in (make_plan, lambda checked: run(Run(checked, here / "deep" / "out"))):
        with pytest.raises(InputError, match=r"steps.1 \(quantize\): no layer matches 'head'"):
            start(wrong)
    assert not (here / "deep").exists()
    (here / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name another output"):
        make_plan(recipe(TRAIN), output=here / "file" / "out")


def test_a_model_that_is_edited_is_rebuilt_with_its_edits(here):
    run(Run(recipe({"prune": {"ratio": 0.5, "round_to": 1}}), here / "pruned"))
    loaded = artifact.load(here / "pruned", trust_source=True)
    assert loaded.edits
    check_rebuilding(loaded)
    loaded.edits.pop()
    with pytest.raises(InputError):
        check_rebuilding(loaded)


def test_a_full_disk_is_noticed_at_the_start(here, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = space_needed(recipe(TRAIN, {"quantize": {}}), load_model("net.py:plain"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed - 1))
    (line,) = problems(recipe(TRAIN, {"quantize": {}}), output=here / "a" / "out")
    assert line.startswith(
        f"output {str(here / 'a' / 'out')!r} needs about {needed:,} bytes, and {needed - 1:,} are free"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed))
    checked_context(recipe(TRAIN, {"quantize": {}}), lambda line: None, output=here / "a" / "out")


def test_space_is_counted_in_copies_of_the_weights():
    loaded = load_model("builtin:digits_cnn")
    size_bytes = uncoded_bytes(loaded)
    assert size_bytes == sum(v.numel() * v.element_size() for v in loaded.module.state_dict().values())
    quantize, adamw = {"quantize": {}}, {"train": {"optimizer": "adamw"}}
    assert space_needed(recipe(quantize), loaded) == 2 * size_bytes
    assert space_needed(recipe(quantize, quantize), loaded, finished=1) == 2 * size_bytes
    assert space_needed(recipe(adamw), loaded) - space_needed(recipe(TRAIN), loaded) == 2 * size_bytes


def test_an_export_names_the_missing_package_and_the_model_that_does_not_trace(here):
    from compresskit.export.options import ExportOptions

    options = ExportOptions.model_validate({"format": "onnx"})
    (here / "out").write_text("")
    checked = recipe(TRAIN, data=None).options
    with pytest.raises(InputError, match="is a file"):
        preflight.checked_export(checked, options, here / "out" / "model.onnx", lambda line: None)
    assert preflight.checked_export(checked, options, here / "new" / "model.onnx", lambda line: None).data is None
    assert not (here / "new").exists()


def test_the_command_line_exits_2_with_every_line_in_its_own(here, invoke):
    (here / "r.yaml").write_text(
        json.dumps(
            {"model": "net.py:plain", "output": "out", "steps": [{"distill": {"max_drop": 0.1}}, {"search": {}}]}
        )
    )
    code, out, err = invoke("run", "r.yaml", "--set", "steps.1.search.target_macs=0.5", "-q")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2
    assert all(line.startswith("compresskit: steps.") for line in err.splitlines())
    assert not (here / "out").exists()
