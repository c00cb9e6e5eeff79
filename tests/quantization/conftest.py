"""A small network, its calibration data, and rounding problems, as functions the tests call."""

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.moments import output_error
from compresskit.core.types import Loaded
from compresskit.quantization.formats.uniform import make_grid
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.quantization.rounding.nearest import Problem
from compresskit.training.context import Context


class Images:
    """Calibration inputs from a generator."""

    def __init__(self, shape):
        self.shape = shape

    def size(self, split, at_most=None):
        return at_most or 1000

    def calibration(self, samples, *, batch_size=64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(batch_size, *self.shape, generator=generator) for _ in range(-(-samples // batch_size))]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.left = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.right = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.left(x) + self.right(x)).mean((2, 3)))


def make_net():
    torch.manual_seed(0)
    return Loaded(Net().eval(), {}, torch.randn(1, 3, 8, 8))


def run_quantize(**options):
    loaded = make_net()
    context = Context(original=loaded.clone(), data=Images((3, 8, 8)))
    return quantize(loaded, QuantizeOptions(**{"reconstruct": "none", **options}), context)


def make_problem(rows=3, columns=6, bits=3, groups=1, seed=0, granularity="channel", group_size=None):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(groups, columns, columns, generator=generator)
    inputs = torch.randn(groups, 200, columns, generator=generator) @ mix
    matrix = torch.randn(rows * groups, columns, generator=generator)
    grid = make_grid(matrix, bits, granularity, group_size, symmetric=True, search="mse", scale_type="float32")
    return Problem(matrix, grid, (inputs.mT @ inputs / 200).double())


def rounding_error(given, codes):
    return float(output_error(given.grid.values(codes) - given.matrix, given.moments))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def images():
    return Images


@pytest.fixture(scope="session")
def net_class():
    return Net


@pytest.fixture(scope="session")
def loaded_net():
    return make_net


@pytest.fixture(scope="session")
def run():
    return run_quantize


@pytest.fixture(scope="session")
def problem():
    return make_problem


@pytest.fixture(scope="session")
def error():
    return rounding_error
