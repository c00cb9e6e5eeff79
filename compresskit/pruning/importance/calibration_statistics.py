"""What criteria look at: weights, and (made when first asked for) gradients and activations on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.block_walk.block_step import Step
from ...analysis.calibration.channels import ChannelSums
from ...analysis.calibration.collect import collect
from ...analysis.calibration.moments import InputMoments, MomentSums, Precision
from ...analysis.calibration.positions import per_example
from ...analysis.sensitivity.channels import output_sensitivities
from ...core.reporting.phases import phase
from ...core.tensors.batches import count_examples
from ...core.tensors.modules import get_module, tensor_of
from ...core.types import Inputs, Loaded, to_device
from ...evaluation.losses import run_with_loss
from ...training.context import Context
from ..dependency.graph import Graph, Member
from ..recovery.sampled_outputs import refittable
from .gradients import Gradients, first_order_effects, weight_gradients

#: layers that read more columns than this are not refitted: their second moments alone would take 300 MB
MOST_COLUMNS = 6144
#: products of float32 rows are summed in float64, except of layers so wide that it would be slow and large
_PRECISION = Precision(sums=torch.float64, widest=1024)


class Evidence:
    """Weights, gradients and activations of a model.

    Args:
        loaded: the model that is scored.
        graph: its groups.
        context: data, device and seed.
        reduction: how scores of the layers that share a unit combine.
        samples: calibration examples.
        points: positions sampled from each example's feature maps.
        what: who needs data, in the words of an error message.
    """

    def __init__(
        self, loaded: Loaded, graph: Graph, context: Context, *, reduction: str = "mean", samples: int = 2048,
        points: int = 16, what: str = "this criterion",
    ):  # fmt: skip
        self.loaded = loaded
        self.graph = graph
        self.context = context
        self.reduction = reduction
        self.samples = samples
        self.points = points
        self.what = what
        self.generator = torch.Generator().manual_seed(context.seed)

    def tensor(self, member: Member) -> Tensor:
        """The present values of a member's tensor."""
        return tensor_named(self.loaded.module, member.name)

    @cached_property
    def inputs(self) -> list[Inputs]:
        """Calibration inputs on the run's device.

        Raises:
            InputError: if the run has no data.
        """
        return calibration(self.context, self.samples, self.what)

    def layer(self, member: Member) -> tuple[str, nn.Module]:
        """The layer that owns a member."""
        name = member.name.rpartition(".")[0]
        return name, get_module(self.loaded.module, name)

    def reads(self, member: Member) -> bool:
        """Whether a member is the input dimension of a layer whose inputs can be measured."""
        return (
            member.consumes and member.dim == 1 and member.name.endswith("weight") and measurable(self.layer(member)[1])
        )

    @cached_property
    def moments(self) -> dict[str, MomentSums]:
        """Moments of the inputs of every measurable layer that reads a group, by layer name."""
        readers = [self.layer(m)[0] for group in self.graph.groups for m in group.members if self.reads(m)]
        return input_moments(
            self.loaded.module, list(dict.fromkeys(readers)), self.inputs, points=self.points, generator=self.generator
        )

    @property
    def labelled(self) -> list[tuple[Inputs, Tensor]]:
        """Calibration examples with their targets, on the run's device."""
        data = self.context.needs_data(self.what)
        batches = data.batches("train", batch_size=64, shuffle=True, seed=self.context.seed, limit=self.samples)
        device = self.context.device
        return [(to_device(inputs, device), to_device(targets, device)) for inputs, targets in batches]

    @cached_property
    def gradients(self) -> Gradients:
        """Gradients of the task loss on calibration examples."""
        return weight_gradients(self.loaded.module, self.labelled, self.context.loss)

    @cached_property
    def channels(self) -> dict[str, ChannelSums]:
        """Statistics of the inputs of every layer that reads a group, by layer name."""
        return collect(self.loaded.module, {name: ChannelSums() for name in self._readers()}, self.inputs)

    @cached_property
    def effects(self) -> dict[str, Tensor]:
        """The first-order effect on the task loss of each input channel of the same layers, by layer name."""
        for p in self.loaded.module.parameters():
            if p.is_floating_point():
                p.requires_grad_(True)
        return first_order_effects(self.loaded.module, self._readers(), self.labelled, self.context.loss)

    @cached_property
    def sensitivity(self) -> dict[str, Tensor]:
        """How much the loss minds errors in the outputs of layers that read a group, by layer name."""
        for p in self.loaded.module.parameters():
            if p.is_floating_point():
                p.requires_grad_(True)
        loss = self.context.loss

        def summed(module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
            return run_with_loss(module, inputs, targets, loss)[1] * count_examples(inputs)

        return output_sensitivities(
            self.loaded.module, self._readers(), self.labelled, errors="independent", score=summed
        )

    def is_reader(self, member: Member) -> bool:
        """Whether a member is the input dimension of a linear layer or a convolution."""
        return (
            member.consumes and member.dim == 1 and member.name.endswith("weight") and refittable(self.layer(member)[1])
        )

    def _readers(self) -> list[str]:
        return list(dict.fromkeys(self.layer(m)[0] for g in self.graph.groups for m in g.members if self.is_reader(m)))


def measurable(layer: nn.Module) -> bool:
    """Whether the moments of a layer's input can be held."""
    return refittable(layer) and tensor_of(layer)[0].numel() <= MOST_COLUMNS


@phase("calibrate")
def input_moments(
    module: nn.Module, names: Sequence[str], batches: Iterable[Inputs], *, points: int, generator: torch.Generator
) -> dict[str, MomentSums]:
    """Moments of what layers read, each with one group.

    Args:
        module: the model.
        names: layers (`measurable`).
        batches: calibration inputs.
        points: output positions sampled from each example.
        generator: draws the positions.
    """
    sample = per_example(points, generator)
    taken = collect(module, {name: InputMoments(sample, _PRECISION) for name in names}, batches)
    return {name: one.sums for name, one in taken.items()}


def block_moments(step: Step, names: Sequence[str], *, points: int, seed: int) -> dict[str, MomentSums]:
    """The same of the layers of one block, of what enters it.

    Args:
        step: the block with its inputs.
        names: layers in it (`measurable`).
        points: output positions sampled from each example.
        seed: of the draws of positions.
    """

    def statistic() -> InputMoments:
        return InputMoments(per_example(points, torch.Generator().manual_seed(seed)), _PRECISION)

    return {name: one.sums for name, one in step.collect({name: statistic() for name in names}).items()}


@phase("calibrate")
def calibration(context: Context, samples: int, what: str) -> list[Inputs]:
    """Calibration inputs on the run's device.

    Raises:
        InputError: if the run has no data.
    """
    batches = context.calibration_batches(samples, what=what)
    return [to_device(batch, context.device) for batch in batches]


def tensor_named(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its full name, without its graph."""
    owner, _, attribute = name.rpartition(".")
    tensor = getattr(get_module(module, owner), attribute).detach()
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
