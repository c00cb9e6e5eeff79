"""Models of the user's files and modules: run once, and never handed out twice as the same object."""

import pytest
import torch
from torch import nn

from compresskit.model.builders import build

CUSTOM = """
import torch
from torch import nn

@torch.library.custom_op("outside::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2

library = torch.library.Library("outside_defined", "DEF")

class Net(nn.Module):
    def forward(self, x):
        return doubled(x)
"""

SHARED = """
import functools
from torch import nn

net = nn.Linear(3, 2)

def of_the_module():
    return net

@functools.lru_cache
def cached():
    return nn.Linear(3, 2)

def fresh():
    return nn.Linear(3, 2)
"""


def record(path, factory):
    return {"kind": "file", "path": str(path), "factory": factory, "args": {}}


def test_a_file_that_registers_operations_builds_twice_and_the_first_model_goes_on_working(tmp_path):
    path = tmp_path / "custom.py"
    path.write_text(CUSTOM)
    first = build(record(path, "Net"))
    second = build(record(path, "Net"))
    x = torch.tensor([1.0, 3.0])
    assert first is not second
    assert torch.equal(first(x), torch.tensor([2.0, 6.0])) and torch.equal(second(x), first(x))


def test_a_file_that_was_edited_runs_again(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 2)\n")
    assert build(record(path, "make")).out_features == 2
    path.write_text("from torch import nn\ndef make():\n    return nn.Linear(3, 5)\n")
    assert build(record(path, "make")).out_features == 5


@pytest.mark.parametrize("factory", ["of_the_module", "cached", "fresh"])
def test_what_is_changed_is_not_what_the_next_build_returns(tmp_path, factory):
    path = tmp_path / "shared.py"
    path.write_text(SHARED)
    first = build(record(path, factory))
    before = first.weight.detach().clone()
    nn.init.zeros_(first.weight)
    second = build(record(path, factory))
    assert second is not first and second.weight.abs().sum() > 0
    if factory != "fresh":
        assert torch.equal(second.weight, before)
