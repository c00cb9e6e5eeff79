"""A copy owns what its forward touches, whatever functions and objects training code left in the module."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.copying import copy_module


class Lambda(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(1)), nn.Linear(4, 4)
        self.act = lambda x: x * self.scale
        self.steps = [lambda x: self.layer(x)]

    def forward(self, x):
        return self.act(self.steps[0](x))


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 4), []
        seen = self.seen

        def keep(module, inputs, output):
            seen.append(output)

        self.layer.register_forward_hook(keep)
        self.layer.register_forward_hook(lambda module, inputs, output: output * self.layer.bias.new_tensor(2.0))

    def forward(self, x):
        self.seen.clear()
        self.layer(x)
        return self.seen[0] * 2


class Patched(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        inner = self.layer.forward
        self.layer.forward = lambda x: inner(x) + 1
        self.again = partial(torch.add, self.layer.bias)

    def forward(self, x):
        return self.again(self.layer(x))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        both = [self.a, self.b]
        self.run = lambda x, layers=both: layers[1](both[0](x))

    def forward(self, x):
        return self.run(x)


class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

        def twice(x, count=2):
            return x if not count else twice(self.layer(x), count - 1)

        self.twice = twice

    def forward(self, x):
        return self.twice(x)


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock, self.stream, self.layer = threading.Lock(), (n for n in range(3)), nn.Linear(4, 4)
        self.table = {"lock": threading.Lock(), "act": lambda x: self.layer(x)}

    def forward(self, x):
        with self.lock:
            self.last = self.table["act"](x)  # with its graph, which deepcopy refuses
        return self.last


class OldNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.utils.weight_norm(nn.Linear(4, 4))

    def forward(self, x):
        return self.layer(x)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.jit.script(nn.Linear(4, 4))

    def forward(self, x):
        return self.layer(x)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("kind", [Lambda, Hooked, Patched, Listed, Recursive, Locked, OldNorm, Scripted])
def test_a_copy_and_its_original_do_not_meet(kind):
    module, x = kind(), torch.randn(3, 4)
    expected = module(x)
    copied = copy_module(module)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(0.5)
    assert torch.equal(module(x), expected)
    changed = copied(x)
    assert not torch.equal(changed, expected)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    assert torch.equal(copied(x), changed)


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_copy_of_a_scripted_layer_learns():
    module = Scripted()
    module.layer.bias.requires_grad_(False)
    copied = copy_module(module)
    copied(torch.ones(3, 4)).sum().backward()
    torch.testing.assert_close(copied.layer.weight.grad, torch.full((4, 4), 3.0))
    assert not copied.layer.bias.requires_grad and module.layer.weight.grad is None


def test_what_is_not_the_modules_stays_shared():
    outside = nn.Linear(4, 4)
    module = nn.Linear(4, 4)
    module.register_forward_hook(lambda own, inputs, output: outside(output))
    copied = copy_module(module)
    x = torch.randn(2, 4)
    before = copied(x)
    with torch.no_grad():
        outside.weight.zero_()
    assert not torch.equal(copied(x), before)


def test_a_module_that_refuses_is_an_input_error():
    class Refuses(nn.Linear):
        def __deepcopy__(self, memo):
            raise RuntimeError("no copies")

    with pytest.raises(InputError, match="cannot be copied .*no copies"):
        copy_module(nn.Sequential(Refuses(2, 2)))
