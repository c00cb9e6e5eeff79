"""After the cut: the weights of layers that lost inputs are refitted so that their outputs come back.

For a layer with kept inputs X (of the cut model) and outputs Y (of the whole model) the new weight minimizes
|Y - X W|^2 + ridge |W - W0|^2, where W0 is the weight as it was cut. Layers are refitted in the order in which they
run, block by block, so each one also mends what the earlier ones left. Where a shortcut is added to the layer's output,
Y also takes up what the cut model's shortcut lacks.

Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1 (linear
least squares on sampled points of the feature maps) and 3.3 (residual branches answer for their shortcut); the pull
towards the cut weight is ridge regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.blocks import Block, find_blocks, run_block
from ...analysis.calibration.hooks import Reached, Sums, watch
from ...analysis.calibration.im2col import input_rows, needs_window, output_positions, output_rows
from ...analysis.calibration.moments import RegressionSums
from ...analysis.calibration.streaming import Held, walk
from ...core.tensors.modules import bias_of, get_module, tensor_of
from ...core.types import Inputs, call
from ...training.batchnorm import channel_scale
from .sampled_outputs import Target, record_targets, refittable

#: activations of all examples from which on a refit would take long, and how many of the widest a model holds at once
_MOST_BYTES, _HELD = 4 << 30, 3


@dataclass(frozen=True)
class Fit:
    """How layers are refitted.

    Attributes:
        kept: layer -> positions of its outputs that stay; None for all.
        ridge: pull towards the cut weight, relative to the mean diagonal of the inputs' second moments.
    """

    kept: Mapping[str, Tensor | None]
    ridge: float


def _solve(sums: RegressionSums, module: nn.Module, name: str, target: Target, fit: Fit) -> float:
    """Put the solution into the layer; returns the share of the output's variance that is left unexplained."""
    layer, bias = get_module(module, name), bias_of(get_module(module, name))
    norm = get_module(module, target.norm) if target.norm is not None else None
    intercept = bias is not None or norm is not None  # a constant goes into the bias, or the norm's running mean
    gram, cross, energy, count = sums.inputs.second[0], sums.cross, sums.energy, sums.inputs.count
    mean_x, mean_y = sums.inputs.mean()[0], sums.outputs / count
    if intercept:
        gram.sub_(torch.outer(mean_x, mean_x) * count)
        cross.sub_(torch.outer(mean_x, mean_y) * count)
        energy -= float(mean_y.square().sum()) * count
    own = tensor_of(layer)
    before = own.double().flatten(1).T
    pull = fit.ridge * float(gram.diagonal().mean()) + 1e-12
    system = gram + pull * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    weight = torch.linalg.solve(system, cross + pull * before)
    own.copy_(weight.T.reshape(own.shape))
    if bias is not None:
        bias.copy_(mean_y - mean_x @ weight)
    elif norm is not None and norm.running_mean is not None:
        tensor_of(norm, "running_mean").sub_(mean_y - mean_x @ weight)  # later layers see the mended mean
    left = energy - 2 * float((weight * cross).sum()) + float((weight * (gram @ weight)).sum())
    return max(left, 0.0) / energy if energy > 0 else 0.0


@torch.no_grad()
def refit_all(
    whole: nn.Module,
    cut: nn.Module,
    names: Sequence[str],
    batches: Sequence[Inputs],
    fit: Fit,
    *,
    points: int,
    generator: torch.Generator,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """Refit layers of the cut model in place, block by block; returns how many.

    Args:
        whole: the model before the cut, in eval mode.
        cut: the model after it, with the same modules.
        names: the layers.
        batches: calibration inputs.
        fit: how.
        points: positions sampled from each example.
        generator: draws the positions.
        log: takes lines of progress.
    """
    blocks = find_blocks(cut, batches[0])
    done = 0
    for number, step in enumerate(walk(cut, blocks, batches, reference=whole), 1):
        own = [name for name in step.block.layers if name in names]
        if not own or step.reference_inputs is None:
            continue
        targets = record_targets(whole, step.block, own, step.reference_inputs, points=points, generator=generator)
        for name, target in targets.items():
            refit(cut, step.block, name, target, step.inputs, fit)
        done += len(targets)
        log(f"refitted {done} of {len(names)} layers (block {number} of {len(blocks)})")
    return done


@dataclass(frozen=True)
class Prospect:
    """What a refit will have and take, judged by one run of the example.

    Attributes:
        quick: whether running all examples block by block is soon done, judged by the size of their activations.
        samples_per_column: the fewest samples that a layer has for each number of a row of its weight; few of them are
            learnt by heart.
    """

    quick: bool
    samples_per_column: float


@torch.no_grad()
def prospect(module: nn.Module, example: Inputs, *, examples: int, points: int) -> Prospect:
    """What a refit from so many examples will have and take.

    Args:
        module: the whole model, in eval mode.
        example: its example input.
        examples: of calibration.
        points: positions sampled from each of them.
    """
    widest, samples = 0, float("inf")

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal widest, samples
        _, positions = output_positions(needs_window(layer), output)
        widest = max(widest, output[0].numel())
        samples = min(samples, examples * min(points, positions) / tensor_of(layer)[0].numel())

    with watch(module, {name: note for name, layer in module.named_modules() if refittable(layer)}):
        call(module, example)
    return Prospect(4 * examples * widest * _HELD <= _MOST_BYTES, samples)


@torch.no_grad()
def refit(module: nn.Module, block: Block, name: str, target: Target, inputs: Held, fit: Fit) -> float:
    """Refit one layer of the cut model in place.

    Args:
        module: the cut model, in eval mode; layers that run earlier are already refitted.
        block: the layer's.
        name: the layer.
        target: what the layer gave in the whole model.
        inputs: what enters the block in the cut model, batch by batch as the target was recorded.
        fit: how.
    Returns:
        the share of the output's variance that is not explained after the fit.
    """
    weight = tensor_of(get_module(module, name))
    equations = RegressionSums(weight[0].numel(), weight.shape[0], weight.device)
    for x, y in _pairs(module, block, name, target, inputs, fit.kept.get(name)):
        equations.update(x, y)
    return _solve(equations, module, name, target, fit)


def _pairs(
    module: nn.Module, block: Block, name: str, target: Target, inputs: Held, outputs_kept: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the layer reads in the cut model at the sampled positions, and what it should give there, call by call.

    Yields:
        (samples, columns) and (samples, out), float64.
    """
    runs_once = len(target.outputs) == len(inputs)
    # it is unclear which sum belongs to which call unless the output is always added to something
    sums_up = runs_once and len(target.beside) == len(inputs)
    added = target.beside if sums_up else [None] * len(target.outputs)
    calls = iter(zip(target.outputs, target.positions, added, strict=True))
    gain = _gain(module, target.norm) if sums_up else 1.0
    sums = Sums()
    found: list[tuple[Tensor, Tensor]] = []

    def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
        wanted, positions, beside = next(calls)
        window = needs_window(layer)
        # a copy: an activation in place may overwrite what the layer read
        read = input_rows(window, inputs[0], positions)[:, 0].to(torch.float64, copy=True)
        target_rows = _kept(wanted, outputs_kept)
        found.append((read, target_rows))
        if beside is None:
            if runs_once:
                raise Reached
            return

        def lacking(_summand: Tensor, other: Tensor) -> None:
            lack = _kept(beside, outputs_kept) - output_rows(window, other, positions).double()
            target_rows.add_(lack * gain)
            raise Reached

        sums.wait(output, lacking)

    watchers: dict[str, Callable[..., Any]] = {name: look}
    if target.norm is not None:
        watchers[target.norm] = lambda _norm, inputs, output: sums.pass_on(inputs[0], output)
    with watch(module, watchers), sums:
        for args, kwargs in inputs:
            with suppress(Reached):
                run_block(module, block, args, kwargs)
            sums.forget()
            yield from found
            found.clear()


def _kept(rows: Tensor, outputs_kept: Tensor | None) -> Tensor:
    return (rows if outputs_kept is None else rows[:, outputs_kept]).to(torch.float64, copy=True)


def _gain(module: nn.Module, norm: str | None) -> Tensor | float:
    """What a change behind the BatchNorm is before it, for each channel; channels that it nearly switches off change
    nothing."""
    if norm is None:
        return 1.0
    layer = get_module(module, norm)
    if layer.running_var is None:
        return 0.0
    scale = channel_scale(layer)
    return torch.where(scale.abs() > 0.01 * scale.abs().max(), 1 / scale, 0.0)
