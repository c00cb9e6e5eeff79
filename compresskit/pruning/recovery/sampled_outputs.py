"""What layers of the whole model gave at sampled positions, and what they read there: all that refitting needs.

Source: He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, section 3.1 (sampled
points of the feature maps).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...analysis.calibration.hooks import Sums, watch
from ...core.types import Inputs, call

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Target:
    """What one layer gave in the whole model, at sampled positions.

    Attributes:
        outputs: one (samples, out) tensor a batch.
        positions: for each batch, the sampled output positions (flat index), shared by all its examples.
        beside: what was then added to the output (behind `norm`), (samples, out) a batch; empty where nothing was.
        norm: the BatchNorm that reads the output directly.
        width: the most numbers that an example's output has.
    """

    outputs: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)
    norm: str | None = None
    width: int = 0


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
            target.outputs.append(rows_at(layer, output, chosen))
            target.width = max(target.width, output[0].numel())
            made[id(output)] = name, output
            sums.wait(output, lambda _output, other: target.beside.append(rows_at(layer, other, chosen)))

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


def rows_at(layer: nn.Module, output: Tensor, positions: Tensor) -> Tensor:
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
