"""After the cut: the weights of layers that lost inputs are refitted so that their outputs come back.

For a layer with kept inputs X (of the cut model) and outputs Y (of the whole model) the new weight minimizes
|Y - X W|^2 + ridge |W - W0|^2, where W0 is the weight as it was cut. Layers are refitted in the order in which they
run, so each one
also mends what the earlier ones left.

Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1 (linear
least
squares on sampled points of the feature maps); the pull towards the cut weight is ridge regression.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.capture import watch
from ..core.modules import get_module
from ..core.types import Inputs, call

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class _Reached(Exception):
    """Ends a forward pass at the layer that was waited for."""


@dataclass
class Target:
    """What one layer gave in the whole model, at sampled positions.

    Attributes:
        outputs: one (samples, out) tensor a batch.
        positions: for each batch, the sampled output positions (flat index), shared by all its examples.
    """

    outputs: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)


def refittable(layer: nn.Module) -> bool:
    """Whether a layer's weight can be refitted: linear, or convolution over all its inputs."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and layer.padding_mode == "zeros"
    )


@torch.no_grad()
def record_targets(
    module: nn.Module, names: Sequence[str], batches: Iterable[Inputs], *, points: int, generator: torch.Generator
) -> tuple[dict[str, Target], dict[str, str]]:
    """Outputs of layers of the whole model at sampled positions.

    Args:
        module: the whole model, in eval mode.
        names: layers.
        batches: calibration inputs.
        points: positions sampled from each example of each batch.
        generator: draws the positions.
    Returns:
        layer name -> Target, in the order in which the layers run; and layer name -> the BatchNorm that reads it
        directly.
    """
    targets: dict[str, Target] = {}
    readers: dict[str, str] = {}
    made: dict[int, str] = {}

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
            target = targets.setdefault(name, Target())
            flat = _positions_last(layer, output)
            chosen = sampled(flat.shape[1], points, generator)
            target.positions.append(chosen)
            target.outputs.append(flat[:, chosen].reshape(-1, flat.shape[2]).clone())
            made[id(output)] = name

        return look

    def reader(name: str):
        def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
            if id(inputs[0]) in made:
                readers.setdefault(made[id(inputs[0])], name)

        return look

    norms = [n for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with watch(module, {**{n: watcher(n) for n in names}, **{n: reader(n) for n in norms}}):
        for inputs in batches:
            made.clear()
            call(module, inputs)
    return targets, readers


def sampled(count: int, points: int, generator: torch.Generator) -> Tensor:
    """Up to `points` of `count` positions, (points,)."""
    return torch.arange(count) if count <= points else torch.randperm(count, generator=generator)[:points]


def positions_of(layer: nn.Module, output: Tensor) -> int:
    """How many output positions a layer has for each example."""
    return output[0].numel() // (output.shape[-1] if isinstance(layer, nn.Linear) else output.shape[1])


def _positions_last(layer: nn.Module, output: Tensor) -> Tensor:
    """(examples, positions, channels) of a layer's output."""
    if isinstance(layer, nn.Linear):
        return output.reshape(output.shape[0], -1, output.shape[-1])
    return output.flatten(2).transpose(1, 2)


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
    ridge: float, intercept: bool, norm: str | None = None,
) -> float:  # fmt: skip
    """Refit one layer of the cut model in place.

    Args:
        module: the cut model, in eval mode; layers that run earlier are already refitted.
        name: the layer.
        target: what the layer gave in the whole model.
        batches: the inputs from which the target was recorded.
        outputs_kept: positions of the outputs that stay; None for all.
        ridge: pull towards the cut weight, relative to the mean diagonal of the inputs' second moments.
        intercept: fit a constant too (it goes into the bias, or else into the running mean of `norm`).
        norm: the BatchNorm that reads the layer's output directly.
    Returns:
        the share of the output's variance that is not explained after the fit.
    """
    layer = get_module(module, name)
    columns = layer.weight[0].numel()
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    cross = torch.zeros(columns, layer.weight.shape[0], dtype=torch.float64)
    sums_x, sums_y = torch.zeros(columns, dtype=torch.float64), torch.zeros(layer.weight.shape[0], dtype=torch.float64)
    energy, count = 0.0, 0
    calls = iter(zip(target.outputs, target.positions, strict=True))

    def accumulate(_layer: nn.Module, inputs: tuple, _output: Any) -> None:
        nonlocal energy, count
        y, positions = next(calls)
        y = (y if outputs_kept is None else y[:, outputs_kept]).double()
        x = patches(layer, inputs[0], positions).double()
        gram.addmm_(x.T, x)
        cross.addmm_(x.T, y)
        sums_x.add_(x.sum(0))
        sums_y.add_(y.sum(0))
        energy += float(y.square().sum())
        count += len(x)
        if runs_once:
            raise _Reached

    runs_once = len(target.outputs) == len(batches)
    with watch(module, {name: accumulate}):
        for inputs in batches:
            try:
                call(module, inputs)
            except _Reached:
                continue
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
    if intercept and layer.bias is not None:
        layer.bias.copy_(mean_y - mean_x @ weight)
    elif intercept and norm is not None and get_module(module, norm).running_mean is not None:
        get_module(module, norm).running_mean.sub_(mean_y - mean_x @ weight)  # later layers see the mended mean
    left = energy - 2 * float((weight * cross).sum()) + float((weight * (gram @ weight)).sum())
    return max(left, 0.0) / energy if energy > 0 else 0.0
