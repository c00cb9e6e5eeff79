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

from ...analysis.calibration.hooks import Sums, watch
from ...analysis.calibration.im2col import needs_window, output_positions, output_rows
from ...analysis.calibration.positions import per_example

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Target:
    """What one layer gave in the whole model, at sampled positions.

    Attributes:
        outputs: one (samples, out) tensor a batch.
        positions: for each batch, the sampled output positions, as indices into its flattened (examples, positions).
        rows: how many positions there were, (examples, positions of each) a batch.
        beside: what was then added to the output (behind `norm`), (samples, out) a batch; empty where nothing was.
        norm: the BatchNorm that reads the output directly.
    """

    outputs: list[Tensor] = field(default_factory=list)
    positions: list[Tensor | None] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)
    norm: str | None = None


def refittable(layer: nn.Module) -> bool:
    """Whether a layer's weight can be refitted: linear, or convolution over all its inputs."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and layer.padding_mode == "zeros"
    )


@torch.no_grad()
def record_targets(
    module: nn.Module,
    names: Sequence[str],
    runs: Iterable[Any],
    *,
    points: int,
    generator: torch.Generator,
) -> dict[str, Target]:
    """Outputs of layers of the whole model at sampled positions.

    Args:
        module: the whole model, in eval mode.
        names: the layers.
        runs: runs them on one batch for each entry, when it comes to it.
        points: positions sampled from each example of each batch.
        generator: draws the positions.
    Returns:
        layer name -> Target, in the order in which the layers run.
    """
    targets: dict[str, Target] = {}
    made: dict[int, tuple[str, Tensor]] = {}  # outputs are held, so that their ids stay their own
    sample, sums = per_example(points, generator), Sums()

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
            target = targets.setdefault(name, Target())
            window = needs_window(layer, inputs[0])
            there = output_positions(window, output)
            chosen = sample(*there)

            def rows(tensor: Tensor) -> Tensor:
                taken = output_rows(window, tensor, chosen)
                return taken.clone() if chosen is None else taken  # an activation in place may overwrite a view

            target.positions.append(chosen)
            target.rows.append(there)
            target.outputs.append(rows(output))
            made[id(output)] = name, output
            sums.wait(output, lambda _output, other: target.beside.append(rows(other)))

        return look

    def reader(norm: str):
        def look(_norm: nn.Module, inputs: tuple, output: Any) -> None:
            if id(inputs[0]) in made:
                name, given = made[id(inputs[0])]
                targets[name].norm = targets[name].norm or norm
                sums.pass_on(given, output)

        return look

    norms = [name for name, one in module.named_modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    with watch(module, {**{n: watcher(n) for n in names}, **{n: reader(n) for n in norms}}), sums:
        for _ in runs:
            made.clear()
            sums.forget()
    return targets
