"""After the cut: the weights of layers that lost inputs are refitted so that their outputs come back.

For a layer with kept inputs X (of the cut model) and outputs Y (of the whole model) the new weight minimizes
|Y - X W|^2 + ridge |W - W0|^2, where W0 is the weight as it was cut. Layers are refitted in the order in which they
run, so each one also mends what the earlier ones left. Where a shortcut is added to the layer's output, Y also takes up
what the cut model's shortcut lacks.

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

from ...analysis.calibration.hooks import Reached, Sums, watch
from ...analysis.calibration.im2col import input_rows, output_positions, output_rows, window_of
from ...analysis.calibration.moments import RegressionSums
from ...core.tensors.modules import get_module, tensor_of
from ...core.types import Inputs, call
from ...training.batchnorm import channel_scale
from .sampled_outputs import Target, refittable

#: activations that may be held for a refit of all layers in one run, and how many of the widest a model holds at once
_MOST_BYTES, _HELD = 4 << 30, 3


@dataclass(frozen=True)
class Fit:
    """How layers are refitted.

    Attributes:
        kept: layer -> positions of its outputs that stay; None for all.
        intercepts: layers for which a constant is fitted too (it goes into the bias, or else into the running mean of
            the BatchNorm behind).
        ridge: pull towards the cut weight, relative to the mean diagonal of the inputs' second moments.
    """

    kept: Mapping[str, Tensor | None]
    intercepts: frozenset[str]
    ridge: float


def _equations(layer: nn.Module) -> RegressionSums:
    weight = tensor_of(layer)
    return RegressionSums(weight[0].numel(), weight.shape[0], weight.device)


def _solve(sums: RegressionSums, module: nn.Module, name: str, target: Target, fit: Fit) -> float:
    """Put the solution into the layer; returns the share of the output's variance that is left unexplained."""
    layer, intercept = get_module(module, name), name in fit.intercepts
    norm = get_module(module, target.norm) if target.norm is not None else None
    gram, cross, energy, count = sums.inputs.second[0], sums.cross, sums.energy, sums.inputs.count
    mean_x, mean_y = sums.inputs.mean()[0], sums.outputs / count
    if intercept:
        gram.sub_(torch.outer(mean_x, mean_x) * count)
        cross.sub_(torch.outer(mean_x, mean_y) * count)
        energy -= float(mean_y.square().sum()) * count
    elif layer.bias is not None:
        cross.sub_(torch.outer(sums.inputs.first[0], layer.bias.double()))
    before = layer.weight.double().flatten(1).T
    pull = fit.ridge * float(gram.diagonal().mean()) + 1e-12
    system = gram + pull * torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    weight = torch.linalg.solve(system, cross + pull * before)
    layer.weight.copy_(weight.T.reshape(layer.weight.shape))
    if intercept and layer.bias is not None:
        layer.bias.copy_(mean_y - mean_x @ weight)
    elif intercept and norm is not None and norm.running_mean is not None:
        norm.running_mean.sub_(mean_y - mean_x @ weight)  # later layers see the mended mean
    left = energy - 2 * float((weight * cross).sum()) + float((weight * (gram @ weight)).sum())
    return max(left, 0.0) / energy if energy > 0 else 0.0


@torch.no_grad()
def refit_all(
    module: nn.Module, targets: Mapping[str, Target], batches: Sequence[Inputs], fit: Fit, log: Callable[[str], None]
) -> None:
    """Refit layers of the cut model in place, one after the other.

    In one run where all inputs fit into memory at once and every layer runs once; what is left in a run for each layer.

    Args:
        module: the cut model, in eval mode.
        targets: what the layers gave in the whole model, in the order in which they run; what was used is dropped.
        batches: the inputs from which the targets were recorded.
        fit: how.
        log: takes lines of progress.
    """
    if runs_in_one(targets, batches):
        _refit_in_one_run(module, targets, batches, fit, log)
    for name, target in targets.items():
        if target.outputs:
            refit(module, name, target, batches, fit)
            _drop(target, targets, log)


def runs_in_one(targets: Mapping[str, Target], batches: Sequence[Inputs]) -> bool:
    """Whether all layers can be refitted while the inputs run through the model once, all together."""
    if not all(isinstance(one, Tensor) and one.shape[1:] == batches[0].shape[1:] for one in batches):
        return False
    examples, widest = sum(len(one) for one in batches), max((target.width for target in targets.values()), default=0)
    return _in_memory(examples, widest * _HELD) and all(_once(one, batches) for one in targets.values())


@dataclass(frozen=True)
class Prospect:
    """What a refit will have and take, judged by one run of the example.

    Attributes:
        quick: whether all layers can be refitted in one run, in little memory.
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
    kept: dict[str, int] = {}  # numbers that are kept of each layer for an example
    widest, once, samples = 0, isinstance(example, Tensor), float("inf")

    def look(name: str):
        def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            nonlocal widest, once, samples
            once = once and name not in kept
            _, positions = output_positions(window_of(layer), output)
            used = min(points, positions)
            # the output, and perhaps what is added to it
            kept[name] = 2 * used * (output[0].numel() // positions)
            widest = max(widest, output[0].numel())
            samples = min(samples, examples * used / layer.weight[0].numel())

        return note

    with watch(module, {name: look(name) for name, layer in module.named_modules() if refittable(layer)}):
        call(module, example)
    return Prospect(once and _in_memory(examples, max(sum(kept.values()), widest * _HELD)), samples)


def _refit_in_one_run(
    module: nn.Module, targets: Mapping[str, Target], batches: Sequence[Tensor], fit: Fit, log: Callable[[str], None]
) -> None:
    """Each layer is refitted when it is reached (or its sum is), and gives its output again with the new weight."""
    sizes = [len(one) for one in batches]
    sums = Sums()

    def solve(name: str, layer: nn.Module, x: Tensor, others: Sequence[Tensor | None]) -> None:
        target, kept, window = targets[name], fit.kept.get(name), window_of(layer)
        equations, gain = _equations(layer), _gain(module, target.norm)
        for number, part in enumerate(x.split(sizes)):
            positions = target.positions[number]
            wanted = _kept(target.outputs[number], kept)
            if others[number] is not None:
                beside = _kept(target.beside[number], kept)
                wanted = wanted + (beside - output_rows(window, others[number], positions).double()) * gain
            equations.update(input_rows(window, part, positions)[:, 0].double(), wanted)
        _solve(equations, module, name, target, fit)
        _drop(target, targets, log)

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            if not _sums_up(targets[name], batches):
                solve(name, layer, inputs[0], [None] * len(sizes))
                return layer.forward(inputs[0])
            version = inputs[0]._version

            def reached(summand: Tensor, other: Tensor) -> None:
                if inputs[0]._version != version:
                    return  # the output cannot be made again; the layer gets a run of its own
                solve(name, layer, inputs[0], other.split(sizes))
                again = layer.forward(inputs[0])
                norm = targets[name].norm
                summand.copy_(again if norm is None else get_module(module, norm).forward(again))

            sums.wait(output, reached)
            return None

        return look

    watchers = {name: watcher(name) for name in targets}
    norms = {target.norm for target in targets.values() if target.norm is not None}
    watchers |= {norm: lambda _norm, inputs, output: sums.pass_on(inputs[0], output) for norm in norms}
    with watch(module, watchers), sums:
        call(module, torch.cat(list(batches)))


@torch.no_grad()
def refit(module: nn.Module, name: str, target: Target, batches: Sequence[Inputs], fit: Fit) -> float:
    """Refit one layer of the cut model in place, in a run of its own.

    Args:
        module: the cut model, in eval mode; layers that run earlier are already refitted.
        name: the layer.
        target: what the layer gave in the whole model.
        batches: the inputs from which the target was recorded.
        fit: how.
    Returns:
        the share of the output's variance that is not explained after the fit.
    """
    equations = _equations(get_module(module, name))
    for x, y in _pairs(module, name, target, batches, fit.kept.get(name)):
        equations.update(x, y)
    return _solve(equations, module, name, target, fit)


def _pairs(
    module: nn.Module, name: str, target: Target, batches: Sequence[Inputs], outputs_kept: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the layer reads in the cut model at the sampled positions, and what it should give there, call by call.

    Yields:
        (samples, columns) and (samples, out), float64.
    """
    runs_once = _once(target, batches)
    sums_up = _sums_up(target, batches)
    added = target.beside if sums_up else [None] * len(target.outputs)
    calls = iter(zip(target.outputs, target.positions, added, strict=True))
    gain = _gain(module, target.norm) if sums_up else None
    sums, found = Sums(), []

    def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
        wanted, positions, beside = next(calls)
        window = window_of(layer)
        # a copy: an activation in place may overwrite what the layer read
        read = input_rows(window, inputs[0], positions)[:, 0].to(torch.float64, copy=True)
        pair = [read, _kept(wanted, outputs_kept)]
        found.append(pair)
        if beside is None and runs_once:
            raise Reached

        def lacking(_summand: Tensor, other: Tensor) -> None:
            pair[1] += (_kept(beside, outputs_kept) - output_rows(window, other, positions).double()) * gain
            raise Reached

        if beside is not None:
            sums.wait(output, lacking)

    watchers = {name: look}
    if target.norm is not None:
        watchers[target.norm] = lambda _norm, inputs, output: sums.pass_on(inputs[0], output)
    with watch(module, watchers), sums:
        for inputs in batches:
            with suppress(Reached):
                call(module, inputs)
            sums.forget()
            yield from found
            found.clear()


def _once(target: Target, batches: Sequence[Inputs]) -> bool:
    return len(target.outputs) == len(batches)


def _sums_up(target: Target, batches: Sequence[Inputs]) -> bool:
    """Whether the output is always added to something; else it is unclear which sum belongs to which call."""
    return _once(target, batches) and len(target.beside) == len(batches)


def _in_memory(examples: int, numbers: int) -> bool:
    """Whether so many float32 numbers an example may be held."""
    return 4 * examples * numbers <= _MOST_BYTES


def _kept(rows: Tensor, outputs_kept: Tensor | None) -> Tensor:
    return (rows if outputs_kept is None else rows[:, outputs_kept]).double()


def _drop(target: Target, targets: Mapping[str, Target], log: Callable[[str], None]) -> None:
    """Drop what a finished layer needed, and tell how many are finished."""
    target.outputs.clear()
    target.beside.clear()
    done = sum(not one.outputs for one in targets.values())
    if done % 10 == 0 or done == len(targets):
        log(f"refitted {done} of {len(targets)} layers")


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
