"""A transformer's stream turned to its principal axes, so that narrowing it loses the directions that carry least.

Channels of the stream between a transformer's layers mean nothing one by one: any rotation of them, folded into the
weights, gives the same model. Along the principal axes of what its normalizations give, few channels carry most of it.

Source: Ashkboos et al., "SliceGPT", ICLR 2024, sections 3.2 and 3.3; with one rotation for all layers, so that
    shortcuts need no matrices, and the result is a model of its own class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.calibration.hooks import stream
from ...analysis.measure.work import exact_costs
from ...analysis.stream.stream import Stream, find_stream
from ...analysis.stream.turning import tied_readers, turn_stream
from ...core.errors import InputError, first_line
from ...core.reporting.phases import phase
from ...core.tensors.modules import bias_of, get_module, tensor_of
from ...core.types import Inputs, Loaded
from ...model.text_inputs import is_causal
from ...training.context import Context
from ..allocation.allocation import whole_counts
from ..allocation.units import Limits
from ..dependency.cost import GraphWork
from ..dependency.graph import Graph, Group, build_graph
from ..options import PruneOptions
from .calibration_statistics import calibration

#: a head that shares the embedding's weights gets its own, which `auto` accepts up to this share of the parameters
_OWN_HEAD = 0.25


@dataclass(frozen=True)
class Axes:
    """What became of a model's stream.

    Attributes:
        graph: the groups of the model as it is now.
        shares: normalization -> what share of its square each channel of its output carries, (width,).
        group: the stream's channels; None where nothing was turned.
        grown: by how much exact costs of the whole model have grown, by a head of its own.
        why_not: why the stream stays as it is.
    """

    graph: Graph
    shares: dict[str, Tensor] = field(default_factory=dict)
    group: Group | None = None
    grown: dict[str, float] = field(default_factory=dict)
    why_not: str = ""

    def budgeted(self, options: PruneOptions) -> PruneOptions:
        """The options with shares of the original model's costs as shares of those that the model has now."""
        for name, amount in options.targets().items():
            if amount.is_share and name in self.grown:
                options = options.with_budget(name, amount.value / self.grown[name])
        return options

    def of_original(self, facts: dict[str, Any], target: float | None, options: PruneOptions) -> float | None:
        """Turn facts about kept shares into those of the original model, and return a budget's share so, too."""
        for name, growth in self.grown.items():
            facts[f"{name}_kept"] *= growth
            if target is not None and name in options.targets():
                target *= growth
        return target

    def restore_scale(self, root: nn.Module, keep: Mapping[str, np.ndarray]) -> None:
        """Multiply normalizations' gains by what means over fewer channels take, so that readers meet what they did.

        A normalization over the d' channels that stay, which carry a share s of the square, gives sqrt(d' / (s d)) of
        what the one over all d gave there.
        """
        if self.group is None or self.group.name not in keep:
            return
        stays = torch.from_numpy(keep[self.group.name])
        for name, share in self.shares.items():
            factor = float((share[stays].sum() * len(stays) / stays.sum()).sqrt())
            with torch.no_grad():  # the gain is 1 since the turn; some families store one less
                tensor_of(get_module(root, name)).add_(factor - 1)


def group_of(graph: Graph, embedding: str) -> Group | None:
    """The group of the stream's channels, where they can go."""
    names = {f"{embedding}.weight"}
    found = (g for g in graph.groups if any(m.dim == 1 and names & set(m.stored.names) for m in g.members))
    return next(found, None)


class Squares:
    """Sums over what normalizations give, each row brought to length 1, without the gain, which readers take over."""

    def __init__(self, axes: Tensor | None = None):
        self.axes = axes
        self.sums: Tensor | None = None

    @torch.no_grad()
    def look(self, _layer: nn.Module, inputs: tuple, _output: object) -> None:
        """Take in one call: second moments, (width, width), or along given axes the squares alone, (width,)."""
        rows = inputs[0].detach().double().flatten(0, -2)
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        new = rows.T @ rows if self.axes is None else (rows @ self.axes).square().sum(0)
        self.sums = new if self.sums is None else self.sums + new

    def total(self) -> Tensor:
        """The sums, on the CPU.

        Raises:
            InputError: if no data came by.
        """
        if self.sums is None:
            raise InputError("rotate: a normalization is not reached by the calibration data")
        return self.sums.cpu()


@phase("choose")
def principal_axes(
    root: nn.Module, found: Stream, batches: Sequence[Inputs], device: torch.device
) -> tuple[Tensor, dict[str, Tensor]]:
    """The axes, (width, width) float64, by falling variance, and what share each carries at each normalization.

    Two runs over the data, so that one matrix of second moments is held, not one of each normalization.
    """
    moments = Squares()
    stream(root, batches, dict.fromkeys(found.readers, moments.look), device)
    axes = torch.linalg.eigh(moments.total()).eigenvectors.flip(1)
    along = {name: Squares(axes.to(device)) for name in found.readers}
    stream(root, batches, {name: one.look for name, one in along.items()}, device)
    return axes, {name: one.total() / one.total().sum() for name, one in along.items()}


def turn_to_axes(
    loaded: Loaded, graph: Graph, limits: Mapping[str, Limits], options: PruneOptions, context: Context
) -> Axes:
    """Turn the stream of a model in place, where the options and the model allow it; otherwise nothing changes.

    Args:
        loaded: the model.
        graph: its groups.
        limits: what each may lose.
        options: whether to turn.
        context: data.
    Raises:
        InputError: if the options ask for it, and it cannot be done.
    """
    wanted = options.rotate == "pca" or (context.data is not None and is_causal(loaded.module))
    if options.rotate == "none" or not wanted:
        return Axes(graph)
    try:
        return _turned(loaded, graph, limits, options, context)
    except InputError as error:
        if options.rotate == "pca":
            raise
        return Axes(graph, why_not=first_line(error))


def _turned(
    loaded: Loaded, graph: Graph, limits: Mapping[str, Limits], options: PruneOptions, context: Context
) -> Axes:
    found = find_turnable(loaded)
    check_narrower(graph, found, limits)
    extra = own_head(loaded.module, found)
    if options.rotate == "auto" and extra > _OWN_HEAD:
        raise InputError(f"rotate: a head of its own would take {extra:.0%} more parameters; rotate pca does it anyway")
    batches = calibration(context, options.samples, "rotate pca")
    axes, shares = principal_axes(loaded.module, found, batches, context.device)
    turned = loaded.clone()  # whether it computes the same is known at the end only
    turn_stream(turned, found, axes)
    loaded.module, loaded.edits = turned.module, turned.edits
    after = build_graph(loaded.module, loaded.example, options.attention)
    ends = [exact_costs(GraphWork(one).at(whole_counts(one)), options.exact_costs()) for one in (graph, after)]
    grown = {name: ends[1][name] / figure for name, figure in ends[0].items() if figure}
    context.log(f"turned the stream of {found.width} channels to its principal axes")
    return Axes(after, shares, group_of(after, found.embeddings[0]), grown)


def check_axes(loaded: Loaded, graph: Graph, limits: Mapping[str, Limits], options: PruneOptions) -> None:
    """Whether the stream of a model can be turned, where the options ask for it; turns that of a copy.

    Raises:
        InputError: if not.
    """
    if options.rotate == "pca":
        found = find_turnable(loaded)
        check_narrower(graph, found, limits)
        turn_stream(loaded, found, torch.eye(found.width, dtype=torch.float64))


def check_narrower(graph: Graph, found: Stream, limits: Mapping[str, Limits]) -> None:
    """Whether a stream may get narrower.

    Raises:
        InputError: if not.
    """
    group = group_of(graph, found.embeddings[0])
    if group is None or limits[group.name].whole or limits[group.name].fixed == 0:
        raise InputError("rotate: the channels between the layers stay, so turning them gains nothing")


def find_turnable(loaded: Loaded) -> Stream:
    """The stream of a model whose width can shrink along any axes.

    Raises:
        InputError: if it has none.
    """
    found = find_stream(loaded)
    if found.centred:
        raise InputError("rotate: normalizations take out the mean of all channels, which fewer of them do not have")
    biased = next((name for name in found.readers if bias_of(get_module(loaded.module, name)) is not None), None)
    if biased is not None:
        raise InputError(f"rotate: {biased} adds a bias of its own")
    return found


def own_head(root: nn.Module, found: Stream) -> float:
    """What heads of their own would add, as a share of the parameters."""
    added = sum(tensor_of(get_module(root, name)).numel() for name in tied_readers(root, found))
    return added / sum(one.numel() for one in root.parameters())
