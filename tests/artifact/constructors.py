"""Models whose constructors compute with tensors, keep some outside of parameters and buffers, or draw at random."""

from __future__ import annotations

import functools
import math
import random
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

CONSTANT = torch.tensor([1.0, -2.0, 3.0])


class Base(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3))) * self.scale()

    def scale(self):
        return 1.0


class PlainTensor(Base):
    """A tensor as a plain attribute."""

    def __init__(self):
        super().__init__()
        self.bank = torch.from_numpy(np.linspace(0.5, 1.5, 3).astype("float32"))
        self.offset = torch.linspace(1, 2, 3)

    def scale(self):
        return self.bank + self.offset


class Nested(Base):
    """Tensors in a list in a dictionary, and in a tuple."""

    def __init__(self):
        super().__init__()
        self.held = {"a": [torch.arange(1.0, 4.0)], "b": (torch.ones(3), None)}

    def scale(self):
        return self.held["a"][0] + self.held["b"][0]


class Closure(Base):
    """A tensor in the closure of a function."""

    def __init__(self):
        super().__init__()
        steps = torch.arange(1.0, 4.0)
        self.function = lambda: steps * 2

    def scale(self):
        return self.function()


class Bound(Base):
    """A tensor bound by functools.partial."""

    def __init__(self):
        super().__init__()
        self.function = functools.partial(torch.mul, torch.arange(1.0, 4.0))

    def scale(self):
        return self.function(torch.tensor(2.0))


@dataclass
class Helper:
    steps: list = field(default_factory=lambda: [torch.arange(1.0, 4.0)])


class Slotted:
    __slots__ = ("helper",)

    def __init__(self):
        self.helper = Helper()


class Objects(Base):
    """A tensor in an object in an object, one of them with slots."""

    def __init__(self):
        super().__init__()
        self.slotted = Slotted()

    def scale(self):
        return self.slotted.helper.steps[0]


class ModuleConstant(Base):
    """A constant at the top of the file."""

    def scale(self):
        return CONSTANT


class Item(Base):
    """Python numbers from tensors: item, float, int, tolist, numpy."""

    def __init__(self):
        super().__init__()
        rates = torch.linspace(1, 2, 4)
        self.rates = [rates[0].item(), float(rates[1]), int(rates[3]), *rates.tolist(), *rates.numpy()]

    def scale(self):
        return sum(self.rates)


class Branch(Base):
    """A layer that is there only for some values."""

    def __init__(self):
        super().__init__()
        if torch.ones(2).any():
            self.extra = nn.Linear(3, 3)
        assert float(torch.ones(2).sum()) == 2

    def scale(self):
        return self.extra.bias


class Swallows(Base):
    """A constructor that goes another way when tensors have no values."""

    def __init__(self):
        super().__init__()
        try:
            self.factor = torch.tensor(3.0).item()
        except (RuntimeError, NotImplementedError):
            self.factor = 1.0

    def scale(self):
        return self.factor


class ByDevice(Base):
    """A constructor that asks for the default device."""

    def __init__(self):
        super().__init__()
        self.factor = 3.0 if torch.empty(0).device.type == "cpu" else 1.0

    def scale(self):
        return self.factor


class Dry(Base):
    """The flattened size from a dry run, a stride from its output."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            y = self.conv(torch.zeros(1, 3, 8, 8))
        self.register_buffer("stride", torch.tensor([8 / y.shape[-1]]))
        self.fc = nn.Linear(y.numel(), 3)
        self.indices = y[0].isfinite().nonzero().tolist()[:3]

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1)) / self.stride + len(self.indices)


class Data(Base):
    """Weights set through `.data`, frozen."""

    def __init__(self):
        super().__init__()
        bank = torch.from_numpy(np.outer([1, 2, 1], [-1, 0, 1]).astype("float32"))
        self.conv.weight.data = bank.expand(4, 3, 3, 3).clone()
        self.conv.weight.requires_grad_(False)


class OnCpu(Base):
    """Tensors put on the CPU by name."""

    def __init__(self):
        super().__init__()
        self.to(torch.device("cpu"))
        self.mask = torch.ones(3, device="cpu") * 2

    def scale(self):
        return self.mask


class Seeds(Base):
    """A constructor that sets the seed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.factor = torch.rand(3).tolist()

    def scale(self):
        return torch.tensor(self.factor)


class Draws(Base):
    """Python values drawn at random by three generators."""

    def __init__(self):
        super().__init__()
        self.order = torch.randperm(3).tolist()
        self.factors = [random.random(), float(np.random.rand())]
        self.register_buffer("noise", torch.rand(3), persistent=False)

    def scale(self):
        return self.noise[self.order] + sum(self.factors)


class Unset(Base):
    """One buffer that begins as None and is set later, one that is set to None later."""

    def __init__(self):
        super().__init__()
        self.register_buffer("late", None)
        self.register_buffer("gone", torch.ones(3) * 9)

    def scale(self):
        factor = 1.0 if self.late is None else self.late
        return factor if self.gone is None else factor * self.gone


class Cache(Base):
    """A cache that forward makes and that grows with its input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.zeros(0), persistent=False)

    def forward(self, x):
        if len(self.positions) < x.shape[-1]:
            self.register_buffer("positions", torch.arange(float(x.shape[-1])), persistent=False)
        if not hasattr(self, "later"):
            self.register_buffer("later", torch.ones(3), persistent=False)
        return super().forward(x + self.positions[: x.shape[-1]]) * self.later


class Counter(Base):
    """Forward counts its calls and computes with the count."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def scale(self):
        self.calls += 1
        return self.calls


class Noise(Base):
    """Forward draws at random."""

    def scale(self):
        return torch.rand(3)


class Warns(Base):
    """A checkpoint of its own, loaded in the constructor, and a warning."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(Base().state_dict())
        warnings.warn("the constructor warns", stacklevel=1)


class NotFinite(Base):
    """Outputs that are not finite."""

    def scale(self):
        return torch.tensor([math.inf, math.nan, 1.0])


class SeveralOutputs(Base):
    """Nested outputs with a None in front and integers behind."""

    def forward(self, x):
        y = super().forward(x)
        return None, {"first": None, "pair": (y * 2, [y.argmax(1)])}, y


ZOO = [
    *(PlainTensor, Nested, Closure, Bound, Objects, ModuleConstant, Item, Branch, Swallows, ByDevice, Dry, Data, OnCpu),
    *(Seeds, Draws, Unset, Cache, Counter, Noise, Warns, NotFinite, SeveralOutputs),
]
#: those of which nothing but a build for real gives the same
ONLY_REAL = {
    *(PlainTensor, Nested, Closure, Bound, Objects, Item, Branch, Swallows, ByDevice, Dry, Data, OnCpu, Seeds, Draws)
}
