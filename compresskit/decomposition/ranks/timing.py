"""Measured time of layers and of the chains that may take their place, and choosing only what is faster."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from ...analysis.calibration.hooks import run_watched
from ...analysis.measure.layer_latency import interleaved_ms, now
from ...core.decisions import Decisions, label
from ...core.errors import GuardMissed
from ...core.tensors.modules import get_module
from ...core.types import Inputs, Loaded, call, to_device
from ...model.example_inputs import with_batch
from ..methods.geometry import build as build_link
from ..methods.kinds import Ranks, chain_of
from ..surgery.find_layers import Site
from ..tables import KINDS
from .candidates import Candidate, Layer, by_cost
from .rank_selection import Choices

# Timings scatter by some percent. A gain that small must not decide, so there the costs do: a chain of at most
# _CHEAP of the layer's MACs is taken unless it gains nothing, a dearer one only where it is faster beyond doubt.
_CHEAP, _CHEAP_LIMIT, _DEAR_LIMIT = 0.75, 0.97, 0.9
_NEAR = 0.08  # of the limit: what comes that near is measured more often
_SPREAD = 6  # candidates of one kind that are timed where not all of them are
_BUILDS = 3  # each time with fresh memory, whose place alone can make a layer slow
_MORE_BUILDS = 9  # of what is near its limit
_ROUNDS = 3
_FORWARDS = 7  # in which layers are timed inside the model

Chain = tuple[str, Ranks]  # kind, ranks
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
        self._chains: dict[tuple, float] = {}

    def __call__(self, site: Site, chains: list[Chain]) -> tuple[float, list[float]]:
        """(milliseconds of the layer, milliseconds of each chain)."""
        shape = (site.geometry, *site.calls, get_module(self._root, site.name).weight.dtype)
        unknown = [one for one in dict.fromkeys(chains) if (shape, one) not in self._chains]
        if unknown or shape not in self._layers:
            name = f"layer {site.name} {label(repr(shape), self._batch)}: {unknown}"
            own_ms, *chains_ms = self._decisions(name, lambda: self._measure(site, unknown))
            layer_ms = self._layers.setdefault(shape, own_ms)
            for one, ms in zip(unknown, chains_ms, strict=True):
                self._chains[shape, one] = ms * layer_ms / own_ms  # what was timed together is compared
        return self._layers[shape], [self._chains[shape, one] for one in chains]

    def time(self, layer: Layer, candidates: list[Candidate]) -> list[Candidate]:
        """The candidates with their milliseconds; the layer gets its own."""
        layer.latency_ms, times = self(layer.site, [(one.kind, one.ranks) for one in candidates])
        return [replace(one, latency_ms=ms) for one, ms in zip(candidates, times, strict=True)]

    def faster(self, site: Site, kind: str, choices: list[Ranks]) -> list[Ranks]:
        """The ranks at which a kind is faster than the layer."""
        layer_ms, times = self(site, [(kind, ranks) for ranks in choices])
        return [
            ranks
            for ranks, ms in zip(choices, times, strict=True)
            if ms < _limit(_macs_share(site, (kind, ranks))) * layer_ms
        ]

    def _measure(self, site: Site, chains: list[Chain]) -> list[float]:
        plain = get_module(self._root, site.name)
        inputs = _inputs_of(site, plain.weight, self._batch)
        own: list[float] = []
        shares: dict[Chain, list[float]] = {one: [] for one in chains}
        waiting = list(chains)
        for build in range(_MORE_BUILDS):
            modules = [copy.deepcopy(plain).eval(), *(_chain(site, one, plain.weight) for one in waiting)]
            runs = [lambda module=module: [module(one) for one in inputs] for module in modules]
            own_ms, *times = interleaved_ms(runs, rounds=_ROUNDS)
            own.append(own_ms)
            for one, ms in zip(waiting, times, strict=True):
                shares[one].append(ms / own_ms)
            if build + 1 >= _BUILDS:
                waiting = [one for one in waiting if _is_near(median(shares[one]), _limit(_macs_share(site, one)))]
                if not waiting:
                    break
        # the median, because now and then another process spoils one build altogether
        own_ms = median(own)
        return [own_ms, *(median(found) * own_ms for found in shares.values())]


def _macs_share(site: Site, one: Chain) -> float:
    return site.macs_of(chain_of(KINDS.load(one[0]), site.geometry, one[1])) / max(site.macs, 1)


def _is_near(share: float, limit: float) -> bool:
    return abs(share / limit - 1) < _NEAR


def _limit(macs_share: float) -> float:
    """The share of the layer's time below which a chain counts as faster, by its share of the layer's MACs."""
    return _CHEAP_LIMIT if macs_share <= _CHEAP else _DEAR_LIMIT


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
    whole_ms, inside = (decisions or Decisions())(name, lambda: _inside(loaded, names, batch))
    for layer in timed:
        scale = inside[layer.site.name] / layer.latency_ms
        layer.latency_ms = inside[layer.site.name]
        layer.candidates = [
            one if one.latency_ms is None else replace(one, latency_ms=one.latency_ms * scale)
            for one in layer.candidates
        ]
    return whole_ms


@torch.inference_mode()
def _inside(loaded: Loaded, names: list[str], batch: int) -> tuple[float, dict[str, float]]:
    """(milliseconds of the model, of each layer over its calls), each at its best of some forward passes."""
    example, sums, begun = _example(loaded, batch), dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    best, whole = dict.fromkeys(names, float("inf")), float("inf")

    def begin(name: str) -> None:
        begun[name] = now()

    def end(name: str) -> None:
        sums[name] += now() - begun[name]

    handles = []
    for name in names:
        module = get_module(loaded.module, name)
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: begin(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: end(name)))
    try:
        for number in range(_FORWARDS + 2):
            sums.update(dict.fromkeys(names, 0.0))
            start = now()
            call(loaded.module, example)
            seconds = now() - start
            if number >= 2:  # the first ones bring memory and kernels in
                whole = min(whole, seconds)
                best = {name: min(best[name], sums[name]) for name in names}
    finally:
        for handle in handles:
            handle.remove()
    return max(whole, sum(best.values())) * 1e3, {name: seconds * 1e3 for name, seconds in best.items()}


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
    asked = f"in place {name} {label(str(before), str(after), batch)}"
    before_ms, after_ms = (decisions or Decisions())(asked, lambda: _in_place_ms(loaded, name, before, batch))
    return after_ms < _DEAR_LIMIT * before_ms


def _in_place_ms(loaded: Loaded, name: str, before: nn.Module, batch: int) -> list[float]:
    calls: list[tuple] = []
    now = get_module(loaded.module, name)
    run_watched(loaded.module, _example(loaded, batch), lambda _, given, *__: calls.append(given), [name])
    return interleaved_ms([lambda module=module: [module(*inputs) for inputs in calls] for module in (before, now)])


def time_candidates(layer: Layer, time: Time) -> None:
    """Time a layer and a spread of its candidates of each kind; those not timed, or not faster, are dropped."""
    kinds = dict.fromkeys(one.kind for one in layer.candidates)
    picks = [one for kind in kinds for one in _spread([one for one in layer.candidates if one.kind == kind])]
    _keep_faster(layer, sorted(picks, key=by_cost), time)


def choose_faster(rule: Callable[[], Choices], layers: list[Layer], timed: list[Layer], time: Time) -> Choices:
    """What a rank rule chooses when it may only take what is measured to be faster than the layer.

    First it chooses freely. Where its choice turns out not to be faster, a spread of the layer's candidates of that
    kind is timed and only the faster ones stay; then it chooses again, until every choice is faster.

    Args:
        rule: chooses from the layers' candidates as they are when it is called.
        layers: all that the rule chooses for, in its order.
        timed: those of them that must not get slower; their candidates are thinned out in place.
        time: (layer, candidates) -> the candidates with latency_ms; it also sets the layer's own.
    Raises:
        GuardMissed: if a budget cannot be met with what is faster.
    """
    must_be_faster = {layer.site.name for layer in timed}
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
    """Whether a timed candidate takes less time than its layer; where the two are close, its cost decides."""
    return one.latency_ms < _limit(one.macs / max(layer.site.macs, 1)) * layer.latency_ms


def _spread(candidates: list[Candidate]) -> list[Candidate]:
    """At most a few, evenly over their costs; ranks in multiples of 8 are preferred, which processors do best."""
    even = [one for one in candidates if all(rank % 8 == 0 for rank in one.ranks)]
    rows = even if len(even) >= _SPREAD else candidates
    picks = torch.linspace(0, len(rows) - 1, min(_SPREAD, len(rows))).round().long().tolist() if rows else []
    return [rows[pick] for pick in dict.fromkeys(picks)]
