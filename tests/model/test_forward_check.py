"""What is looked at once where a model is loaded: the state of its tensors, and its first run."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.core.errors import ForwardError, InputError
from compresskit.core.types import Loaded, call
from compresskit.model.forward_check import check_forward, check_state


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def sparse(net):
    net.b.weight = nn.Parameter(net.b.weight.detach().to_sparse_csr(), requires_grad=False)
    return net


def half_on_meta(net):
    net.b = nn.Linear(6, 3, device="meta")
    return net


def quantized_eagerly(net):
    return torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    "change, match",
    [
        (sparse, r"b\.weight is a sparse_csr tensor; give its dense values"),
        (half_on_meta, r"b\.weight is on the meta device and has no values; build the model on the CPU"),
        (quantized_eagerly, r"a is quantized already \(Linear of torch\.ao\); start from the float model"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_nothing_here_works_with_are_named(change, match):
    with pytest.raises(InputError, match=match):
        check_state(change(Net()), "model 'x'")


@pytest.mark.filterwarnings("ignore")
def test_weights_that_another_library_packs_are_named():
    quantization = pytest.importorskip("torchao.quantization")
    net = Net()
    quantization.quantize_(net, quantization.Int8WeightOnlyConfig())
    with pytest.raises(InputError, match=r"a\.weight is a \w+, whose values another library packs"):
        check_state(net, "model 'x'")


def test_tensors_of_inference_mode_become_ordinary_ones_and_stay_tied():
    with torch.inference_mode():
        net = Net()
        net.c = nn.Linear(4, 6)
        net.c.weight = net.a.weight
    before = net.a.weight.clone()
    check_state(net, "model 'x'")
    assert not any(parameter.is_inference() for parameter in net.parameters())
    assert net.a.weight is net.c.weight and net.a.weight.requires_grad
    assert torch.equal(net.a.weight, before)


class Raising(Net):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if self.error is SystemExit:
            sys.exit(7)
        raise self.error


@pytest.mark.parametrize(
    "error, match",
    [
        (ValueError("own\nreason"), "does not run on its example input: ValueError: own; --input says"),
        (KeyError(), "does not run on its example input: KeyError; --input"),
        (SystemExit, "does not run on its example input: SystemExit: 7"),
        (BaseException("odd"), "does not run on its example input: BaseException: odd"),
    ],
)
def test_whatever_forward_raises_is_one_line(error, match):
    with pytest.raises(ForwardError, match=match):
        check_forward(Loaded(Raising(error), {}, torch.ones(1, 4)))


class InPlace(Net):
    def forward(self, x):
        x += 1
        return super().forward(x)


@pytest.mark.parametrize("named", [False, True])
def test_a_model_that_changes_its_inputs_gets_copies(named):
    example = torch.ones(1, 4)
    loaded = check_forward(Loaded(InPlace(), {}, {"x": example} if named else example))
    first, second = (call(loaded.module, loaded.example) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(example, torch.ones(1, 4))
    assert torch.equal(first, Net()(torch.full((1, 4), 2.0)))
    assert not check_forward(Loaded(Net(), {}, example)).module._forward_pre_hooks


class Large(Net):
    def forward(self, x):
        return super().forward(x) * 1e6


def test_a_16_bit_model_that_overflows_is_refused_and_a_wider_one_runs():
    with pytest.raises(InputError, match=r"NaN or infinity in float16 \(largest number 65504\); load it in bfloat16"):
        check_forward(Loaded(Large().half(), {}, torch.ones(1, 4)))
    assert check_forward(Loaded(Large().bfloat16(), {}, torch.ones(1, 4))).notes == []


class Log(Net):
    def forward(self, x):
        return (super().forward(x) - 100).log()


class Masked(Net):
    def forward(self, x):
        return super().forward(x).masked_fill(torch.tensor([False, False, True]), float("-inf"))


def test_a_float32_output_that_is_not_finite_is_a_note_and_masks_are_none():
    assert "holds NaN or infinity" in check_forward(Loaded(Log(), {}, torch.ones(1, 4))).notes[0]
    assert check_forward(Loaded(Masked(), {}, torch.ones(1, 4))).notes == []
