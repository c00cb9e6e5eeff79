"""Calibration inputs from the model alone, for those who have no data at hand.

Images (any float input before BatchNorm layers) are found by gradient: their statistics at every BatchNorm become those
that the layer remembers of its training. Token ids are drawn from the model itself, one position after the other, where
it predicts tokens; else uniformly from the table that reads them. Whatever else a model reads stays as its example is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...core.reporting.phases import counted
from ...core.tensors.batches import map_tensors, tensors_of
from ...core.tensors.copying import copy_module
from ...core.tensors.modules import tensor_of
from ...core.types import Inputs, call, main_output
from ...model.example_inputs import with_batch
from .hooks import watch

_BATCH = 64
_LEARNING_RATE = 0.2  # on ResNet-20 the statistics' distance falls from 0.68 to 0.004 in 100 steps
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Synthesized:
    """Batches, and how they were made.

    Attributes:
        batches: inputs, `batch_size` examples each but for the last.
        note: one line for reports.
    """

    batches: list[Inputs]
    note: str


def synthesize(
    module: nn.Module,
    example: Inputs,
    *,
    samples: int,
    seed: int,
    steps: int = 100,
) -> Synthesized:
    """Make calibration inputs without data.

    Args:
        module: the trained model, left as it is.
        example: inputs of the structure that it takes.
        samples: how many examples.
        seed: of the noise that images start from, and of drawn tokens.
        steps: of gradient descent on images.
    """
    module = copy_module(module).eval().requires_grad_(False)
    norms = [norm for norm in module.modules() if isinstance(norm, _NORMS) and norm.running_mean is not None]
    tokens = _tokens_of(module, example)
    batches, distances = [], []
    for start in range(0, samples, _BATCH):
        inputs = with_batch(example, min(_BATCH, samples - start))
        generator = torch.Generator().manual_seed(seed + start)
        inputs = map_tensors(inputs, partial(_noise, generator=generator))
        if tokens is not None:
            inputs = _draw_tokens(module, inputs, tokens, generator)
        elif norms:
            inputs, distance = _match_statistics(module, norms, inputs, steps)
            distances.append(distance)
            counted(start + len(main_output(inputs)), samples, f"distance of statistics {distance:.3g}")
        batches.append(inputs)
    return Synthesized(batches, _note(samples, distances, tokens))


def _note(samples: int, distances: list[float], tokens: _Tokens | None) -> str:
    made = f"no data: calibrated on {samples} inputs made from the model, "
    if distances:
        return f"{made}by the statistics of its BatchNorm layers (distance left: {max(distances):.3g})"
    if tokens is not None:
        return f"{made}token ids drawn {'from its own predictions' if tokens.predicted else 'uniformly'}"
    return f"{made}standard normal noise, for it has no BatchNorm layer that remembers its data: expect a loss"


def _noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return torch.randn(tensor.shape, generator=generator).to(tensor)


def _match_statistics(
    module: nn.Module, norms: Iterable[nn.Module], inputs: Inputs, steps: int
) -> tuple[Inputs, float]:
    """Move float inputs until every BatchNorm sees the mean and standard deviation that it remembers.

    The distance is the mean over layers of the squared differences, in units of each channel's standard deviation.

    Source: Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework", CVPR 2020, eq. 3.
    """
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            tensor = tensor.detach().float().requires_grad_(True)
            leaves.append(tensor)
        return tensor

    inputs = map_tensors(inputs, leaf)
    optimizer = torch.optim.Adam(leaves, lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    terms: list[Tensor] = []
    handles = [norm.register_forward_pre_hook(lambda n, given: terms.append(_distance(n, given[0]))) for norm in norms]
    distance = math.nan
    for _ in range(steps):
        terms.clear()
        with torch.enable_grad():
            call(module, inputs)
            total = torch.stack(terms).mean() + sum(_standard(x) for x in leaves)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        distance = float(torch.stack(terms).mean().detach())
    for handle in handles:  # the module is a copy that nobody else holds, so an exception leaves nothing behind
        handle.remove()
    return map_tensors(inputs, Tensor.detach), distance


def _distance(norm: nn.Module, given: Tensor) -> Tensor:
    over = [axis for axis in range(given.dim()) if axis != 1]
    eps = float(getattr(norm, "eps", 0.0))
    wanted, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var") + eps
    centred = given - wanted.view(-1, *[1] * (given.dim() - 2))
    lacking = centred.mean(over)  # of the mean; Tensor.var over several dimensions takes ten times as long
    spread = (centred.square().mean(over) - lacking.square()).clamp_min(0).add(eps).sqrt()
    return ((lacking.square() + (spread - variance.sqrt()).square()) / variance).mean()


def _standard(inputs: Tensor) -> Tensor:
    """How far inputs are from mean 0 and deviation 1, which normalization gives data."""
    return inputs.mean().square() + (inputs.std() - 1).square()


@dataclass(frozen=True)
class _Tokens:
    """The integer input that the largest table reads.

    Attributes:
        number: which tensor of the example it is.
        count: rows of the table.
        predicted: whether the model predicts each position's token from those before it.
    """

    number: int
    count: int
    predicted: bool


@torch.no_grad()
def _tokens_of(module: nn.Module, example: Inputs) -> _Tokens | None:
    """Which input holds token ids; None where no table reads one."""
    tensors = tensors_of(example)
    places = {tensor.data_ptr(): number for number, tensor in enumerate(tensors) if not tensor.is_floating_point()}
    rows: dict[int, int] = {}

    def look(table: nn.Module, given: tuple, _output: Tensor) -> None:
        number = places.get(given[0].data_ptr())
        if number is not None:
            rows[number] = tensor_of(table).shape[0]

    tables = [name for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)]
    if not tables or not places:
        return None
    with watch(module, dict.fromkeys(tables, look)):
        logits = main_output(call(module, example))
    if not rows:
        return None
    number = max(rows, key=lambda n: (rows[n], -n))
    ids, count = tensors[number], rows[number]
    predicted = logits.dim() == 3 and logits.shape[:2] == ids.shape and logits.shape[2] >= count
    if predicted and ids.shape[1] > 1:  # a later token must not move what is said of an earlier one
        changed = ids.clone()
        changed[:, -1] = (changed[:, -1] + 1) % count
        moved = main_output(call(module, _with_tensor(example, number, changed)))
        predicted = torch.allclose(moved[:, :-1], logits[:, :-1], atol=1e-4)
    return _Tokens(number, count, predicted)


@torch.no_grad()
def _draw_tokens(module: nn.Module, inputs: Inputs, tokens: _Tokens, generator: torch.Generator) -> Inputs:
    given = tensors_of(inputs)[tokens.number]
    ids = torch.randint(0, tokens.count, given.shape, generator=generator, dtype=given.dtype)
    if tokens.predicted:
        for position in range(ids.shape[1] - 1):
            logits = main_output(call(module, _with_tensor(inputs, tokens.number, ids)))[:, position, : tokens.count]
            ids[:, position + 1] = torch.multinomial(logits.float().softmax(1), 1, generator=generator)[:, 0]
    return _with_tensor(inputs, tokens.number, ids)


def _with_tensor(inputs: Inputs, number: int, tensor: Tensor) -> Inputs:
    """Inputs with one of their tensors, counted in order, replaced."""
    counted = itertools.count()
    return map_tensors(inputs, lambda old: tensor if next(counted) == number else old)
