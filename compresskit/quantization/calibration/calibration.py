"""Where activations are quantized, and with which ranges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compresskit.core.errors import InputError
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs, call

from ...analysis.dataflow import Key, Trace
from ..formats import uniform
from ..formats.layers import Quantized, along_channels
from ..tables import OBSERVERS
from .attention_matmuls import Products, products_of
from .observers import Levels

#: operations on two activations that integer runtimes compute in integers if both are quantized
_BINARY = ("add", "add_", "mul", "mul_", "sub", "sub_")
#: element-wise operations that runtimes merge into the operation before them
_FUSED = ("relu", "relu_", "hardtanh", "hardtanh_")

#: operations that runtimes compute on integers as well
_INTEGER = (
    *_FUSED, "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "view", "_unsafe_view", "reshape",
    "transpose", "permute", "t", "flatten", "unsqueeze", "squeeze", "cat", "slice", "select", "split", "chunk", "clone",
    "constant_pad_nd", "upsample_nearest2d", "dropout", "detach", "alias",
)  # fmt: skip

#: is shown a tensor
Update = Callable[[Tensor], object]


@dataclass(frozen=True)
class Site:
    """One tensor that gets quantized: a module's first input, its output, or what a product of its own reads."""

    module: str
    side: str  # "input", "output" or "operand"
    key: Key  # the tensor of the trace; sites of one tensor share their range
    index: int = 0  # which operand
    bits: int | None = None  # None: those of the other sites


def find_sites(root: nn.Module, record: Trace, layers: Iterable[str], *, additions: bool) -> list[Site]:
    """The tensors to quantize for integer execution.

    Args:
        root: the model.
        record: a trace of it.
        layers: the layers whose first input is to be quantized.
        additions: quantize also what additions and products of two activations read and write, and what layers write
            that no layer reads, where a module returns it or takes it in.
    Returns:
        sites in order of execution, outputs first where both sides hold the same tensor.
    """
    sites, layers = [], list(layers)
    for name in layers:
        calls = record.calls.get(name, [])
        if calls and calls[0].inputs:
            layer = root.get_submodule(name)
            # a scaled input is another tensor than what the layer is called with
            own = (name,) if isinstance(layer, Quantized) and layer.spec.input_multiplier else ()
            sites.append(Site(name, "input", calls[0].inputs[0] + own))
    if not additions:
        return sites
    entered = {site.key[:5] for site in sites}  # without the mark of scaled inputs
    joining = [node for node in record.nodes if _joins_activations(node, record)]
    wanted = [key for node in joining if _reaches(node.outputs[0], record, entered) for key in _around(node, record)]
    read_by_layers = {site.key for site in sites}
    for name in layers:
        output = record.single_output(name)
        written = _after_fused(output, record) if output in record.producer else None
        # what no layer reads (a pooled feature map) keeps the convolution that wrote it from running in integers;
        # matrix products may return floats
        convolves = hasattr(root.get_submodule(name), "kernel_size")
        if written is None or written in read_by_layers:
            continue
        if convolves or _reaches(written, record, entered):
            wanted.append(written)
    joined = [site for key in dict.fromkeys(wanted) if (site := _place(key, record)) is not None]
    return joined + [site for site in sites if site not in joined]


def operand_sites(operands: dict[str, int]) -> list[Site]:
    """A site for each operand of each module's own products, by how many each has."""
    return [Site(name, "operand", (name, index), index) for name, count in operands.items() for index in range(count)]


def _place(key: Key, record: Trace) -> Site | None:
    """Where a tensor can be quantized for all its readers: where a module returns it, or where one takes it in."""
    if key in record.outputs:
        return None
    maker = _maker(key, record)
    if maker is not None:
        return Site(maker, "output", key)
    taker = _taker(key, record)
    return Site(taker, "input", key) if taker is not None else None


def _joins_activations(node, record: Trace) -> bool:
    made = [key for key in node.inputs if key in record.producer]
    return node.op in _BINARY and len(dict.fromkeys(made)) == 2 and all(len(key[2]) > 1 for key in made)


def _reaches(key: Key, record: Trace, entered: set[Key]) -> bool:
    """Whether a tensor comes to a quantized layer by operations that compute in integers alone.

    What goes into a normalization first (the residual stream of a transformer) gains nothing from few bits, and loses.
    """
    queue = [key]
    for found in queue:
        if found in entered:
            return True
        for node in record.consumers.get(found, []):
            if node.op in _INTEGER or _joins_activations(node, record):
                queue += [made for made in node.outputs if made not in queue]
    return False


def _around(node, record: Trace) -> list[Key]:
    """What a joining operation reads, and what it (and the activation fused to it) writes."""
    keys = [key for key in node.inputs if key in record.producer]
    return [*keys, _after_fused(node.outputs[0], record)]


def _after_fused(key: Key, record: Trace) -> Key:
    """A tensor, or what the activation makes of it that runtimes merge into the operation that wrote it."""
    readers = record.consumers.get(key, [])
    return readers[0].outputs[0] if len(readers) == 1 and readers[0].op in _FUSED else key


def _maker(key: Key, record: Trace) -> str | None:
    """The innermost module, called once, that ran the operation that made this tensor and returned it."""
    path = record.producer[key].module
    while path:
        if record.single_output(path) == key:
            return path
        path = path.rpartition(".")[0]
    return None


def _taker(key: Key, record: Trace) -> str | None:
    """The outermost module, called once, with this tensor as its first argument and all its readers inside."""
    readers = {node.module for node in record.consumers[key]}
    for path, calls in record.calls.items():
        inside = all(reader == path or reader.startswith(f"{path}.") for reader in readers)
        if path and len(calls) == 1 and calls[0].inputs[:1] == (key,) and inside:
            return path
    return None


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
                        update(_scaled(module, args[0]))

                stack.callback(module.register_forward_pre_hook(before).remove)
            else:

                def after(_module, _args, output, update=update):
                    for values in tree_leaves(output):
                        if isinstance(values, Tensor):
                            update(values)

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
