"""With which ranges activations are quantized."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compresskit.core.errors import InputError
from compresskit.core.tensors.dispatch import without_vmap
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs, call

from ...analysis.dataflow import Key
from ..formats import uniform
from ..layers.quantized_layer import Quantized, along_channels
from ..tables import OBSERVERS
from .attention_matmuls import Products, products_of
from .observers import Levels
from .sites import Site

#: is shown a tensor
Update = Callable[[Tensor], object]


class _Observed:
    """Observers fed with the same tensor, one a name."""

    def __init__(self, names: Iterable[str], levels: Levels, percentile: float):
        self.observers = {name: OBSERVERS.load(name)(levels, percentile) for name in names}

    def update(self, values: Tensor) -> None:
        for observer in self.observers.values():
            observer.update(values)


def levels_at(site: Site, levels: Levels) -> Levels:
    """The quantizer of one site, where those of the others have these levels."""
    return levels if site.bits is None else replace(levels, bits=site.bits)


def observe(
    root: nn.Module,
    sites: Iterable[Site],
    batches: Iterable[Inputs],
    *,
    observer: str,
    levels: Levels = Levels(),
    percentile: float = 99.99,
) -> dict[Key, tuple[float, float]]:
    """Run data through a model and take the range of every site.

    Args:
        root: the model, quantized or not.
        sites: tensors to observe.
        batches: re-iterable batches of inputs.
        observer: a row of OBSERVERS, or "auto".
        levels: the activation quantizer.
        percentile: for that observer, in percent.
    Returns:
        tensor -> (low, high).
    Raises:
        InputError: if a site saw no data, or values that are not finite.
    """
    sites = list(sites)
    names = list(OBSERVERS) if observer == "auto" else [observer]
    observed = {site.key: _Observed(names, levels_at(site, levels), percentile) for site in sites}
    watched = {site.key: site for site in reversed(sites)}  # one site a tensor is enough
    _run(root, batches, {site: observed[site.key].update for site in watched.values()})
    ranges = {key: {name: entry.range() for name, entry in group.observers.items()} for key, group in observed.items()}
    for site in sites:
        if not all(torch.isfinite(torch.tensor(edges)).all() for edges in ranges[site.key].values()):
            raise InputError(
                f"calibration saw no finite {site.side} of layer {site.module!r}; check the data, or skip the layer"
            )
    if observer != "auto":
        return {key: candidates[observer] for key, candidates in ranges.items()}
    return choose(root, list(watched.values()), batches, ranges, levels)


def choose(
    root: nn.Module,
    sites: list[Site],
    batches: Iterable[Inputs],
    ranges: dict[Key, dict[str, tuple[float, float]]],
    levels: Levels,
) -> dict[Key, tuple[float, float]]:
    """For each tensor the candidate range of the smallest error in the layer that reads it.

    The error is that of the layer's output when its input is quantized; where no layer reads the tensor directly,
    that of the tensor itself.
    """
    modules = dict(root.named_modules())
    errors = {site.key: dict.fromkeys(ranges[site.key], 0.0) for site in sites}

    def measure(site: Site):
        layer = modules[site.module]
        forward = layer.float_class.forward if isinstance(layer, Quantized) else type(layer).forward

        own = levels_at(site, levels)

        def update(values: Tensor) -> None:
            linear = site.side == "input" and hasattr(layer, "weight")
            reference = forward(layer, values) if linear else values
            for name, (low, high) in ranges[site.key].items():
                scale, zero_point = uniform.range_to_scale(
                    torch.tensor(low), torch.tensor(high), own.bits, symmetric=own.symmetric
                )
                rounded = uniform.round_trip(values, scale, zero_point, own.bits)
                result = forward(layer, rounded) if linear else rounded
                errors[site.key][name] += float((result - reference).double().square().sum())

        return update

    _run(root, batches, {site: measure(site) for site in sites})
    return {key: ranges[key][min(found, key=found.__getitem__)] for key, found in errors.items()}


@torch.no_grad()
def _run(root: nn.Module, batches: Iterable[Inputs], updates: dict[Site, Update]) -> None:
    operands: dict[str, dict[int, Update]] = defaultdict(dict)  # module -> operand -> its update
    with ExitStack() as stack:
        for site, update in updates.items():
            module = get_module(root, site.module)
            if site.side == "operand":
                operands[site.module][site.index] = update
            elif site.side == "input":

                def before(module, args, update=update):
                    if args and isinstance(args[0], Tensor):
                        update(_scaled(module, without_vmap(args[0])))

                stack.callback(module.register_forward_pre_hook(before).remove)
            else:

                def after(_module, _args, output, update=update, rectified=site.rectified):
                    for values in tree_leaves(output):
                        if isinstance(values, Tensor):
                            update(without_vmap(values.relu() if rectified else values))

                stack.callback(module.register_forward_hook(after).remove)
        for name, own in operands.items():
            stack.enter_context(_watched_operands(get_module(root, name), own))
        root.eval()
        for inputs in batches:
            call(root, inputs)


@contextmanager
def _watched_operands(module: nn.Module, updates: dict[int, Update]) -> Iterator[None]:
    """While inside, show each operand of a module's own products to its update."""
    active: list[Products] = []

    def enter(*_: object) -> None:
        place = count()

        def take(values: Tensor) -> Tensor:
            updates.get(next(place), id)(values)
            return values

        active.append(products_of(module, take))
        active[-1].__enter__()

    def leave(*_: object) -> None:
        active.pop().__exit__(None, None, None)

    handles = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scaled(module: nn.Module, values: Tensor) -> Tensor:
    if isinstance(module, Quantized) and module.spec.input_multiplier:
        return values * along_channels(module.input_multiplier, module)
    return values


def store_range(layer: nn.Module, side: str, edges: tuple[float, float], levels: Levels, index: int = 0) -> None:
    """Set the scale and zero point of a quantized layer's input, output or operand of that index from a range."""
    scale, zero_point = uniform.range_to_scale(
        torch.tensor(edges[0]), torch.tensor(edges[1]), levels.bits, symmetric=levels.symmetric
    )
    getattr(layer, f"{side}_scale").view(-1)[index] = scale
    getattr(layer, f"{side}_zero_point").view(-1)[index] = zero_point
