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

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.batchnorm import channel_scale
from ..core.capture import Reached, Sums, watch
from ..core.modules import get_module
from ..core.types import Inputs, call

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Target:
    """What one layer gave in the whole model, at sampled positions.

    Attributes:
        outputs: one (samples, out) tensor a batch.
        positions: for each batch, the sampled output positions (flat index), shared by all its examples.
        beside: what was then added to the output (behind `norm`), (samples, out) a batch; empty where nothing was.
        norm: the BatchNorm that reads the output directly.
    """

    outputs: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)
    norm: str | None = None


def refittable(layer: nn.Module) -> bool:
    """Whether a layer's weight can be refitted: linear, or convolution over all its inputs."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and layer.padding_mode == "zeros"
    )


@torch.no_grad()
def record_targets(
    module: nn.Module, names: Sequence[str], batches: Iterable[Inputs], *, points: int, generator: torch.Generator
) -> dict[str, Target]:
    """Outputs of layers of the whole model at sampled positions.

    Args:
        module: the whole model, in eval mode.
        names: layers.
        batches: calibration inputs.
        points: positions sampled from each example of each batch.
        generator: draws the positions.
    Returns:
        layer name -> Target, in the order in which the layers run.
    """
    targets: dict[str, Target] = {}
    made: dict[int, tuple[str, Tensor]] = {}  # outputs are held, so that their ids stay their own
    sums = Sums()

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
            target = targets.setdefault(name, Target())
            chosen = sampled(positions_of(layer, output), points, generator)
            target.positions.append(chosen)
            target.outputs.append(_rows(layer, output, chosen))
            made[id(output)] = name, output
            sums.wait(output, lambda other: target.beside.append(_rows(layer, other, chosen)))

        return look

    def reader(norm: str):
        def look(_norm: nn.Module, inputs: tuple, output: Any) -> None:
            if id(inputs[0]) in made:
                name, given = made[id(inputs[0])]
                targets[name].norm = targets[name].norm or norm
                sums.pass_on(given, output)

        return look

    norms = [n for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with watch(module, {**{n: watcher(n) for n in names}, **{n: reader(n) for n in norms}}), sums:
        for inputs in batches:
            call(module, inputs)
            made.clear()
            sums.forget()
    return targets


def sampled(count: int, points: int, generator: torch.Generator) -> Tensor:
    """Up to `points` of `count` positions, (points,)."""
    return torch.arange(count) if count <= points else torch.randperm(count, generator=generator)[:points]


def positions_of(layer: nn.Module, output: Tensor) -> int:
    """How many output positions a layer has for each example."""
    return output[0].numel() // (output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1])


def _rows(layer: nn.Module, output: Tensor, positions: Tensor) -> Tensor:
    """A layer's output at sampled positions, (examples * points, channels)."""
    if isinstance(layer, nn.Linear):
        flat = output.reshape(output.shape[0], -1, output.shape[-1])
    else:
        flat = output.flatten(2).transpose(1, 2)
    return flat[:, positions].reshape(-1, flat.shape[2])


def patches(layer: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    """What a layer reads at sampled output positions.

    Args:
        layer: a linear layer or a convolution.
        x: its input.
        positions: flat output positions, (points,).
    Returns:
        (examples * points, in_features), columns in the order of the flattened weight.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(x.shape[0], -1, x.shape[-1])[:, positions].reshape(-1, x.shape[-1])
    padding = layer.padding
    if isinstance(padding, str):
        total = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        pads = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    else:
        pads = [side for p in reversed(padding) for side in (p, p)]
    x = F.pad(x, pads)
    windows = x
    for axis, (kernel, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        windows = windows.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    space = len(layer.kernel_size)
    where = torch.unravel_index(positions, windows.shape[2 : 2 + space])
    picked = windows[(slice(None), slice(None), *where)]  # (examples, channels, points, *kernel)
    return picked.movedim(2, 1).reshape(picked.shape[0] * len(positions), -1)


@torch.no_grad()
def refit(
    module: nn.Module, name: str, target: Target, batches: Sequence[Inputs], outputs_kept: Tensor | None, *,
    ridge: float, intercept: bool,
) -> float:  # fmt: skip
    """Refit one layer of the cut model in place.

    Args:
        module: the cut model, in eval mode; layers that run earlier are already refitted.
        name: the layer.
        target: what the layer gave in the whole model.
        batches: the inputs from which the target was recorded.
        outputs_kept: positions of the outputs that stay; None for all.
        ridge: pull towards the cut weight, relative to the mean diagonal of the inputs' second moments.
        intercept: fit a constant too (it goes into the bias, or else into the running mean of the BatchNorm behind).
    Returns:
        the share of the output's variance that is not explained after the fit.
    """
    layer = get_module(module, name)
    columns, rows = layer.weight[0].numel(), layer.weight.shape[0]
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    cross = torch.zeros(columns, rows, dtype=torch.float64)
    sums_x, sums_y = torch.zeros(columns, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    energy, count = 0.0, 0
    for x, y in _pairs(module, name, target, batches, outputs_kept):
        gram.addmm_(x.T, x)
        cross.addmm_(x.T, y)
        sums_x.add_(x.sum(0))
        sums_y.add_(y.sum(0))
        energy += float(y.square().sum())
        count += len(x)
    mean_x, mean_y = sums_x / count, sums_y / count
    if intercept:
        gram.sub_(torch.outer(mean_x, mean_x) * count)
        cross.sub_(torch.outer(mean_x, mean_y) * count)
        energy -= float(mean_y.square().sum()) * count
    elif layer.bias is not None:
        cross.sub_(torch.outer(sums_x, layer.bias.double()))
    before = layer.weight.double().flatten(1).T
    pull = ridge * float(gram.diagonal().mean()) + 1e-12
    system = gram + pull * torch.eye(columns, dtype=torch.float64)
    weight = torch.linalg.solve(system, cross + pull * before)
    layer.weight.copy_(weight.T.reshape(layer.weight.shape))
    norm = get_module(module, target.norm) if target.norm is not None else None
    if intercept and layer.bias is not None:
        layer.bias.copy_(mean_y - mean_x @ weight)
    elif intercept and norm is not None and norm.running_mean is not None:
        norm.running_mean.sub_(mean_y - mean_x @ weight)  # later layers see the mended mean
    left = energy - 2 * float((weight * cross).sum()) + float((weight * (gram @ weight)).sum())
    return max(left, 0.0) / energy if energy > 0 else 0.0


def _pairs(
    module: nn.Module, name: str, target: Target, batches: Sequence[Inputs], outputs_kept: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the layer reads in the cut model at the sampled positions, and what it should give there, call by call.

    Yields:
        (samples, columns) and (samples, out), float64.
    """
    runs_once = len(target.outputs) == len(batches)
    sums_up = runs_once and len(target.beside) == len(batches)  # else it is unclear which sum belongs to which call
    added = target.beside if sums_up else [None] * len(target.outputs)
    calls = iter(zip(target.outputs, target.positions, added, strict=True))
    gain = _gain(module, target.norm) if sums_up else None
    sums, found = Sums(), []

    def kept(rows: Tensor) -> Tensor:
        return (rows if outputs_kept is None else rows[:, outputs_kept]).double()

    def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
        wanted, positions, beside = next(calls)
        pair = [patches(layer, inputs[0], positions).double(), kept(wanted)]
        found.append(pair)
        if beside is None and runs_once:
            raise Reached

        def lacking(other: Tensor) -> None:
            pair[1] += (kept(beside) - _rows(layer, other, positions).double()) * gain
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
