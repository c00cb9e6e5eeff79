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
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.block_walk.block_step import Held
from ...analysis.calibration.block_walk.blocks import Block, run_block
from ...analysis.calibration.block_walk.streaming import walk
from ...analysis.calibration.hooks import Reached, Sums, watch
from ...analysis.calibration.im2col import input_rows, needs_window, output_positions, output_rows
from ...analysis.calibration.moments import RegressionSums
from ...core.reporting.phases import counted
from ...core.tensors.batches import count_examples, pick
from ...core.tensors.modules import bias_of, evaluating, get_module, tensor_of
from ...core.types import Inputs, call
from ...training.batchnorm import channel_scale
from .ridge import STRENGTHS, NormalEquations, chosen_strength, total
from .sampled_outputs import Target, record_targets, refittable

#: activations of all examples from which on a refit would take long, and how many of the widest a model holds at once
_MOST_BYTES, _HELD = 8 << 30, 3
#: bytes up to which what all layers of the whole model gave is recorded in one run of it
_RECORDED_AT_ONCE = 1 << 30
_FOLDS, _MOST_COLUMNS = 4, 2048  # of cross-validation; layers with more columns take two, for memory's sake


@dataclass(frozen=True)
class Fit:
    """How layers are refitted.

    Attributes:
        kept: layer -> positions of its outputs that stay; None for all.
        ridge: pull towards the cut weight, relative to the mean diagonal of the inputs' second moments; None chooses it
            for each layer by the error on samples that were left out.
    """

    kept: Mapping[str, Tensor | None]
    ridge: float | None


class _OtherPositions(Exception):
    """The cut model calls a layer at other positions than the whole model does."""


class _Sums:
    """Sums over what a layer reads and should give, apart for each fold where the ridge is to be chosen.

    Args:
        layer: that is refitted.
        fit: how.
    """

    def __init__(self, layer: nn.Module, fit: Fit):
        weight = tensor_of(layer)
        columns, outputs = weight[0].numel(), weight.shape[0]
        folds = 1 if fit.ridge is not None else _FOLDS if columns <= _MOST_COLUMNS else 2
        self._folds = [RegressionSums(columns, outputs, weight.device) for _ in range(folds)]

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in samples of one call, those of one example side by side."""
        count = len(self._folds)
        for fold, own_x, own_y in zip(self._folds, x.tensor_split(count), y.tensor_split(count), strict=True):
            if len(own_x):
                fold.update(own_x, own_y)

    def folds(self) -> list[NormalEquations]:
        """The sums of each fold that has samples."""
        return [NormalEquations.of(fold) for fold in self._folds if fold.inputs.count]


def _solve(sums: _Sums, module: nn.Module, name: str, target: Target, fit: Fit) -> float:
    """Put the solution into the layer; returns the share of the output's variance that is left unexplained."""
    layer, bias = get_module(module, name), bias_of(get_module(module, name))
    norm = get_module(module, target.norm) if target.norm is not None else None
    intercept = bias is not None or norm is not None  # a constant goes into the bias, or the norm's running mean
    folds = sums.folds()
    whole = total(folds)
    own = tensor_of(layer)
    before, ridge = own.double().flatten(1).T, fit.ridge
    if ridge is None:
        ridge = chosen_strength(folds, before, intercept=intercept) if len(folds) > 1 else STRENGTHS[-1]
    mean_x, mean_y = whole.inputs / whole.count, whole.outputs / whole.count
    if intercept:
        whole = whole.shifted(mean_x, mean_y)
    weight = whole.solve(before, ridge)
    own.copy_(weight.T.reshape(own.shape))
    if bias is not None:
        bias.copy_(mean_y - mean_x @ weight)
    elif norm is not None and norm.running_mean is not None:
        tensor_of(norm, "running_mean").sub_(mean_y - mean_x @ weight)  # later layers see the mended mean
    return whole.left(weight) / whole.energy if whole.energy > 0 else 0.0


@torch.no_grad()
def refit_all(
    whole: nn.Module,
    cut: nn.Module,
    blocks: Sequence[Block],
    names: Sequence[str],
    batches: Sequence[Inputs],
    fit: Fit,
    *,
    points: int,
    generator: torch.Generator,
) -> int:
    """Refit layers of the cut model in place, block by block; returns how many.

    Args:
        whole: the model before the cut, in eval mode.
        cut: the model after it, with the same modules.
        blocks: of the latter.
        names: the layers.
        batches: calibration inputs.
        fit: how.
        points: positions sampled from each example.
        generator: draws the positions.
    """
    record = partial(record_targets, whole, points=points, generator=generator)
    done, everything = 0, {}
    with evaluating(whole):
        at_once = _recording_bytes(whole, names, batches, points) <= _RECORDED_AT_ONCE
        if at_once:  # one run of the whole model in the place of two block by block, of which one records
            everything = record(names, (call(whole, batch) for batch in batches))
    for number, step in enumerate(walk(cut, blocks, batches, reference=None if at_once else whole), 1):
        own = [name for name in step.block.layers if name in names]
        if step.reference_inputs is not None and own:
            runs = (run_block(whole, step.block, args, kwargs) for args, kwargs in step.reference_inputs)
            targets = record(own, runs)
        else:
            targets = {name: everything.pop(name) for name in own if name in everything}
        left = [refit(cut, step.block, name, target, step.inputs, fit) for name, target in targets.items()]
        done += sum(one is not None for one in left)
        counted(number, len(blocks), f"{done} of {len(names)} layers refitted")
    return done


def _recording_bytes(whole: nn.Module, names: Sequence[str], batches: Sequence[Inputs], points: int) -> int:
    """Memory for the targets of all layers, with what may be beside them, and for one batch's outputs."""
    sampled = outputs = 0

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal sampled, outputs
        examples, positions = output_positions(needs_window(layer), output)
        sampled += len(tensor_of(layer)) * min(points, positions)
        outputs += output.numel() // max(examples, 1)

    with watch(whole, dict.fromkeys(names, note)):
        call(whole, pick(batches[0], torch.zeros(1, dtype=torch.int64)))
    counts = [count_examples(batch) for batch in batches]
    return 4 * (2 * sampled * sum(counts) + outputs * max(counts))


@torch.no_grad()
def quickly_refitted(module: nn.Module, example: Inputs, *, examples: int) -> bool:
    """Whether running all examples block by block is soon done, judged by the size of their activations.

    Args:
        module: the whole model, in eval mode.
        example: its example input.
        examples: of calibration.
    """
    widest = 0

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal widest
        widest = max(widest, output[:1].numel())  # a head may get no rows at all

    with watch(module, {name: note for name, layer in module.named_modules() if refittable(layer)}):
        call(module, example)
    return 4 * examples * widest * _HELD <= _MOST_BYTES


@torch.no_grad()
def refit(module: nn.Module, block: Block, name: str, target: Target, inputs: Held, fit: Fit) -> float | None:
    """Refit one layer of the cut model in place.

    Args:
        module: the cut model, in eval mode; layers that run earlier are already refitted.
        block: the layer's.
        name: the layer.
        target: what the layer gave in the whole model.
        inputs: what enters the block in the cut model, batch by batch as the target was recorded.
        fit: how.
    Returns:
        the share of the output's variance that is not explained after the fit; None where the layer is left as it is,
        because it computes at other positions than in the whole model: those of a layer that mixes tokens are channels.
    """
    equations = _Sums(get_module(module, name), fit)
    try:
        for x, y in _pairs(module, block, name, target, inputs, fit.kept.get(name)):
            equations.update(x, y)
    except _OtherPositions:
        return None
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
    calls = iter(zip(target.outputs, target.positions, added, target.rows, strict=True))
    gain = _gain(module, target.norm) if sums_up else 1.0
    sums = Sums()
    found: list[tuple[Tensor, Tensor]] = []

    def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
        wanted, positions, beside, rows = next(calls)
        window = needs_window(layer, inputs[0])
        if output_positions(window, output) != rows:
            raise _OtherPositions
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
