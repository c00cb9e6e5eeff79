"""Measured time of layers and of the chains that may take their place, and choosing only what is faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...analysis.calibration.hooks import run_watched
from ...analysis.measure.latency import layers_in_model_ms, quartiles, take_turns
from ...core.errors import GuardMissed
from ...core.tensors.modules import get_module, tensor_of
from ...core.timings.decisions import Decisions, label
from ...core.types import Inputs, Loaded, to_device
from ...model.example_inputs import with_batch
from ..methods.geometry import build as build_link, chain_outputs
from ..methods.kinds import Ranks, chain_of
from ..surgery.find_layers import Site
from ..tables import KINDS
from .candidates import Candidate, Layer, by_cost
from .rank_selection import Choices

# Timings scatter, and what they decide must not hang on it. So cost decides and time has a veto: of chains that save
# less than a quarter of the layer's MACs none is taken, of the others all that are not measured to be slower, by more
# than their times spread and by more than 5 %. Only a budget in time, which cannot do without timings, also takes a
# dearer chain, where it is faster beyond doubt.
# Elements that a convolution's chain puts out beyond its own count as 35 MACs each, since moving them takes time that
# MACs leave out; chosen on ResNet-20 alone (CIFAR-10 weights, two busy cores), where it left the fewest choices to
# timings.
_MACS_PER_OUTPUT = 35
_CHEAP, _CHEAP_LIMIT, _DEAR_LIMIT = 0.75, 1.05, 0.9
_SPREAD = 6  # candidates of one kind that are timed where not all of them are
_BUILDS = 5  # each time with fresh memory, whose place alone can make a layer slow
_LONG_MS, _FEW_BUILDS = 10.0, 2  # of layers that take longer, whose times scatter less
_ROUNDS = 3

Chain = tuple[str, Ranks]  # kind, ranks


class ChainTime(NamedTuple):
    """Milliseconds of a chain, and how far they spread as a share of the layer's."""

    ms: float
    spread: float


Time = Callable[[Layer, list[Candidate]], list[Candidate]]


class TimeTable:
    """Milliseconds of layers and of chains in their place, on inputs of the layers' own sizes.

    Layers of the same shape share what was measured, and nothing is measured twice.

    Args:
        root: the model.
        batch: examples a forward; the surveyed calls are those of one example.
        decisions: where times are kept, and taken from where they are known.
    """

    def __init__(self, root: nn.Module, batch: int = 1, decisions: Decisions | None = None):
        self._root, self._batch = root, batch
        self._decisions = decisions or Decisions()
        self._layers: dict[tuple, float] = {}
        self._chains: dict[tuple, ChainTime] = {}

    def __call__(self, site: Site, chains: list[Chain]) -> tuple[float, list[ChainTime]]:
        """(milliseconds of the layer, times of each chain)."""
        shape = (site.geometry, *site.calls, get_module(self._root, site.name).weight.dtype)
        unknown = [one for one in dict.fromkeys(chains) if (shape, one) not in self._chains]
        if unknown or shape not in self._layers:
            name = f"times for {site.name} {label(repr(shape), self._batch)}: {unknown}"
            own_ms, shares = self._decisions(name, lambda: self._measure(site, unknown))
            layer_ms = self._layers.setdefault(shape, own_ms)
            for one, (share, spread) in zip(unknown, shares, strict=True):
                self._chains[shape, one] = ChainTime(share * layer_ms, spread)
        return self._layers[shape], [self._chains[shape, one] for one in chains]

    def time(self, layer: Layer, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates with their milliseconds; the layer gets its own."""
        layer.latency_ms, times = self(layer.site, [(one.kind, one.ranks) for one in candidates])
        return [
            replace(one, latency_ms=time.ms, latency_spread=time.spread)
            for one, time in zip(candidates, times, strict=True)
        ]

    def faster(self, site: Site, kind: str, choices: list[Ranks]) -> list[Ranks]:
        """The ranks at which a kind is faster than the layer: all of them where the dearest is."""
        dearest = max(choices, key=lambda ranks: _chain_share(site, (kind, ranks)))
        layer_ms, (time,) = self(site, [(kind, dearest)])
        if _passes(_chain_share(site, (kind, dearest)), time.ms / layer_ms, time.spread):
            return choices
        layer_ms, times = self(site, [(kind, ranks) for ranks in choices])
        return [
            ranks
            for ranks, time in zip(choices, times, strict=True)
            if _passes(_chain_share(site, (kind, ranks)), time.ms / layer_ms, time.spread)
        ]

    def _measure(self, site: Site, chains: list[Chain]) -> tuple[float, list[tuple[float, float]]]:
        """(milliseconds of the layer, share of them that each chain takes and how far that spreads)."""
        plain = get_module(self._root, site.name)
        weight = tensor_of(plain)
        inputs = _inputs_of(site, weight, self._batch)
        own: list[float] = []
        bests: dict[Chain, list[float]] = {one: [] for one in chains}
        for build in range(_BUILDS):
            if build == _FEW_BUILDS and min(own) > _LONG_MS:
                break
            modules = [copy.deepcopy(plain).eval(), *(_chain(site, one, weight) for one in chains)]
            runs = [lambda module=module: [module(one) for one in inputs] for module in modules]
            own_times, *times = take_turns(runs, rounds=_ROUNDS)
            own.append(own_times.best_ms)
            for one, found in zip(chains, times, strict=True):
                bests[one].append(found.best_ms)
        # the best of all builds, because other processes only ever add time
        spreads = [quartiles([ms / of for ms, of in zip(found, own, strict=True)]).spread for found in bests.values()]
        shares = [min(found) / min(own) for found in bests.values()]
        return min(own), list(zip(shares, spreads, strict=True))


def cheap_ranks(site: Site, kind: str, choices: list[Ranks]) -> list[Ranks]:
    """The ranks at which a kind saves a quarter of the layer's cost; `choose_faster` takes no others."""
    return [ranks for ranks in choices if _chain_share(site, (kind, ranks)) <= _CHEAP]


def _chain_share(site: Site, one: Chain) -> float:
    chain = chain_of(KINDS.load(one[0]), site.geometry, one[1])
    return _cost_share(site, site.macs_of(chain), sum(chain_outputs(chain, call) for call in site.calls))


def _cost_share(site: Site, macs: int, outputs: int) -> float:
    """MACs of a chain, and what a convolution's puts out beyond its own, as a share of the layer's MACs."""
    own_outputs = sum(chain_outputs([site.geometry], call) for call in site.calls)
    more = max(outputs - own_outputs, 0) if site.geometry.kernel else 0
    return (macs + _MACS_PER_OUTPUT * more) / max(site.macs, 1)


def _passes(cost_share: float, time_share: float, spread: float) -> bool:
    """Whether a chain may take a layer's place, by its shares of the layer's cost and time."""
    if cost_share <= _CHEAP:
        return time_share - spread < _CHEAP_LIMIT
    return time_share + spread < _DEAR_LIMIT


@torch.no_grad()
def _chain(site: Site, one: Chain, like: Tensor) -> nn.Module:
    chain = nn.Sequential(*(build_link(link, like) for link in chain_of(KINDS.load(one[0]), site.geometry, one[1])))
    for parameter in chain.parameters():
        parameter.fill_(0.01)  # uninitialized memory may hold denormals, which are slow
    return chain.eval()


def _inputs_of(site: Site, like: Tensor, batch: int) -> list[Tensor]:
    geometry = site.geometry
    if geometry.form == "embedding":
        return [torch.zeros(batch * one.positions, dtype=torch.long, device=like.device) for one in site.calls]
    shapes = [(batch * one.positions, geometry.in_channels, *one.size) for one in site.calls]
    return [torch.full(shape, 0.5, dtype=like.dtype, device=like.device) for shape in shapes]


def move_into_model(
    loaded: Loaded, layers: list[Layer], batch: int, decisions: Decisions | None = None
) -> float:  # fmt: skip
    """Turn times of layers by themselves into times inside the model, where they share caches and memory.

    A layer's candidates are scaled as the layer is.

    Returns:
        milliseconds of the whole model.
    """
    timed = [layer for layer in layers if layer.latency_ms is not None]
    names = [layer.site.name for layer in timed]
    name = f"layers inside the model {label(names, batch, str(loaded.module))}"
    whole_ms, inside = (decisions or Decisions())(
        name, lambda: layers_in_model_ms(loaded.module, _example(loaded, batch), names)
    )
    for layer in timed:
        scale = inside[layer.site.name] / (layer.latency_ms or 1.0)
        layer.latency_ms = inside[layer.site.name]
        layer.candidates = [
            one if one.latency_ms is None else replace(one, latency_ms=one.latency_ms * scale)
            for one in layer.candidates
        ]
    return whole_ms


def _example(loaded: Loaded, batch: int) -> Inputs:
    example = loaded.example if batch == 1 else with_batch(loaded.example, batch)
    return to_device(example, next(loaded.module.parameters()).device)


def is_faster_in_place(
    loaded: Loaded, name: str, before: nn.Module, *, batch: int = 1, decisions: Decisions | None = None
) -> bool:
    """Whether the module that stands at a name takes less time than the one before, on what arrives there.

    Args:
        batch: examples a forward.
        decisions: where times are kept, and taken from where they are known.
    """
    after = get_module(loaded.module, name)
    asked = f"share in place of {name} {label(str(before), str(after), batch)}"
    share, spread = (decisions or Decisions())(asked, lambda: _share_in_place(loaded, name, before, batch))
    return share + spread < _DEAR_LIMIT


def _share_in_place(loaded: Loaded, name: str, before: nn.Module, batch: int) -> tuple[float, float]:
    """The share of the former module's time that the one in its place takes, and how far it spreads."""
    calls: list[tuple] = []
    after = get_module(loaded.module, name)
    run_watched(loaded.module, _example(loaded, batch), lambda _, given, *__: calls.append(given), [name])
    runs = [lambda module=module: [module(*inputs) for inputs in calls] for module in (before, after)]
    before_times, after_times = take_turns(runs)
    return after_times.best_ms / before_times.best_ms, quartiles(after_times.over(before_times)).spread


def time_candidates(layer: Layer, time: Time) -> None:
    """Time a layer and a spread of its candidates of each kind; those not timed, or not faster, are dropped."""
    kinds = dict.fromkeys(one.kind for one in layer.candidates)
    picks = [one for kind in kinds for one in _spread([one for one in layer.candidates if one.kind == kind])]
    _keep_faster(layer, sorted(picks, key=by_cost), time)


def choose_faster(rule: Callable[[], Choices], layers: list[Layer], timed: list[Layer], time: Time) -> Choices:
    """What a rank rule chooses when it may only take what is measured to be faster than the layer.

    Candidates that save less than a quarter of a layer's MACs go at once. Then it chooses freely. Where its choice
    turns out to be slower, a spread of the layer's candidates of that kind is timed, and those that are no slower
    stay; then it chooses again, until every choice may stay.

    Args:
        rule: chooses from the layers' candidates as they are when it is called.
        layers: all that the rule chooses for, in its order.
        timed: those of them that must not get slower; their candidates are thinned out in place.
        time: (layer, candidates) -> the candidates with latency_ms; it also sets the layer's own.
    Raises:
        GuardMissed: if a budget cannot be met with what is faster.
    """
    must_be_faster = {layer.site.name for layer in timed}
    for layer in timed:
        cheap = [one for one in layer.candidates if _cost_share(layer.site, one.macs, one.outputs) <= _CHEAP]
        layer.slower += len(layer.candidates) - len(cheap)
        layer.candidates = cheap
    while True:
        try:
            choices = rule()
        except GuardMissed as error:
            refused = sum(layer.slower > 0 for layer in layers)
            if not refused:
                raise
            raise GuardMissed(
                f"{error}; in {refused} of {len(layers)} layers candidates that save MACs or parameters take more time "
                "than the layer and were left out; slower_layers allow takes them"
            ) from None
        settled = True
        for layer, one in zip(layers, choices, strict=True):
            if one is None or one.latency_ms is not None or layer.site.name not in must_be_faster:
                continue
            (with_time,) = time(layer, [one])
            if is_faster(layer, with_time):
                layer.candidates[layer.candidates.index(one)] = with_time
            else:
                layer.slower += 1
                others = [other for other in layer.candidates if other.kind != one.kind]
                own = _spread([other for other in layer.candidates if other.kind == one.kind and other != one])
                _keep_faster(layer, own, time)
                layer.candidates = sorted([*others, *layer.candidates], key=by_cost)
            settled = False  # what was chosen may be gone, or has its time only now
        if settled:
            return choices


def _keep_faster(layer: Layer, candidates: list[Candidate], time: Time) -> None:
    timed = time(layer, candidates)
    layer.candidates = [one for one in timed if is_faster(layer, one)]
    layer.slower += len(timed) - len(layer.candidates)


def is_faster(layer: Layer, one: Candidate) -> bool:
    """Whether a timed candidate may take its layer's place; within the spread of its times, its cost decides."""
    if one.latency_ms is None or layer.latency_ms is None:
        raise TypeError(f"layer {layer.site.name!r} was not timed")
    cost_share = _cost_share(layer.site, one.macs, one.outputs)
    return _passes(cost_share, one.latency_ms / layer.latency_ms, one.latency_spread)


def _spread(candidates: list[Candidate]) -> list[Candidate]:
    """At most a few, evenly over their costs; ranks in multiples of 8 are preferred, which processors do best."""
    even = [one for one in candidates if all(rank % 8 == 0 for rank in one.ranks)]
    rows = even if len(even) >= _SPREAD else candidates
    picks = torch.linspace(0, len(rows) - 1, min(_SPREAD, len(rows))).round().long().tolist() if rows else []
    return [rows[pick] for pick in dict.fromkeys(picks)]
