"""Which activations are quantized, so that a runtime stays in integers from layer to layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from ...analysis.dataflow import Key, Trace
from ..layers.quantized_layer import Quantized

#: operations on two activations that integer runtimes compute in integers if both are quantized
_BINARY = ("add", "add_", "mul", "mul_", "sub", "sub_")
#: element-wise operations that runtimes merge into the operation before them
_FUSED = ("relu", "relu_", "hardtanh", "hardtanh_")

#: operations that give back values which they read, so that codes stay what they are
_MOVING = (
    "max_pool2d_with_indices", "upsample_nearest2d", "view", "_unsafe_view", "reshape", "transpose", "permute", "t",
    "flatten", "unsqueeze", "squeeze", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "clone",
    "detach", "alias",
)  # fmt: skip
#: operations that runtimes compute on integers as well
_INTEGER = (
    *_FUSED, *_MOVING, "avg_pool2d", "_adaptive_avg_pool2d", "mean", "cat", "constant_pad_nd", "dropout",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One tensor that gets quantized: a module's first input, its output, or what a product of its own reads."""

    module: str
    side: str  # "input", "output" or "operand"
    key: Key  # the tensor of the trace; sites of one tensor share their range
    index: int = 0  # which operand
    bits: int | None = None  # None: those of the other sites
    rectified: bool = False  # an output that a ReLU reads alone: the tensor is what that makes of it


def find_sites(root: nn.Module, record: Trace, layers: Iterable[str], *, additions: bool) -> list[Site]:
    """The tensors to quantize for integer execution.

    Args:
        root: the model.
        record: a trace of it.
        layers: the layers whose first input is to be quantized.
        additions: quantize also what additions and products of two activations read and write, what is concatenated,
            and what layers write that no layer reads, where a module returns it or takes it in.
    Returns:
        sites in order of execution, outputs first where both sides hold the same tensor, and last those of tensors
        that hold another one's values and share its range.
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
        if written is None or (
            written in read_by_layers and not (convolves and _read_elsewhere(written, record, layers))
        ):
            continue
        if convolves or _reaches(written, record, entered):
            wanted.append(written)
    placed = [_place(key, record) for key in dict.fromkeys(wanted)]
    joined = [site for site in dict.fromkeys(placed) if site is not None]
    return _sharing_ranges(joined + [site for site in sites if site not in joined], record)


def _sharing_ranges(sites: list[Site], record: Trace) -> list[Site]:
    """The same sites; one of moved values takes the range of the tensor that they come from, if that has a site."""
    held = {site.key for site in sites}
    own: list[Site] = []
    moved: list[Site] = []
    for site in sites:
        source, before = site.key, _moved_from(site.key, record)
        while before is not None:
            source = before if before in held else source
            before = _moved_from(before, record)
        (own if source == site.key else moved).append(replace(site, key=source))
    return own + moved


def _moved_from(key: Key, record: Trace) -> Key | None:
    """The activation whose values a tensor holds, moved."""
    node = record.producer.get(key)
    if node is None or node.op not in _MOVING or key not in node.outputs[:1] and node.op.startswith("max_pool"):
        return None
    made = [source for source in node.inputs if source in record.producer]
    return made[0] if len(made) == 1 else None


def operand_sites(operands: dict[str, int]) -> list[Site]:
    """A site for each operand of each module's own products, by how many each has."""
    return [Site(name, "operand", (name, index), index) for name, count in operands.items() for index in range(count)]


def _place(key: Key, record: Trace) -> Site | None:
    """Where a tensor can be quantized for all its readers: where a module returns it, or where one takes it in.

    Values that were only moved are quantized where they come from, if there is no such place behind the move.
    """
    if key in record.outputs:
        return None
    maker = _maker(key, record)
    if maker is not None:
        return Site(maker, "output", key)
    rectified = _rectified(key, record)
    if rectified is not None:
        return Site(rectified, "output", key, rectified=True)
    taker = _taker(key, record)
    if taker is not None:
        return Site(taker, "input", key)
    source = _moved_from(key, record)
    return _place(source, record) if source is not None else None


def _read_elsewhere(key: Key, record: Trace, layers: list[str]) -> bool:
    """Whether something else than these layers reads a tensor, too: floats, which its maker then has to write."""
    return any(node.module not in layers for node in record.consumers[key])


def _rectified(key: Key, record: Trace) -> str | None:
    """The module whose output a ReLU reads alone that no module of its own computes: codes from 0 on cut like it."""
    node = record.producer.get(key)
    if node is None or node.op not in ("relu", "relu_"):
        return None
    source = next((one for one in node.inputs if one in record.producer), None)
    return _maker(source, record) if source is not None and record.only_reader(source) is node else None


def _joins_activations(node, record: Trace) -> bool:
    made = [key for key in node.inputs if key in record.producer]
    if not all(len(key[2]) > 1 for key in made):
        return False
    count = len(dict.fromkeys(made))
    return count == 2 if node.op in _BINARY else node.op == "cat" and count > 1


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
    """The innermost module, called once, that made this tensor and returned it.

    Not by the path of the operation: a module that has several parents (an activation function) goes by one of them.
    """
    makers = [
        path
        for path, calls in record.calls.items()
        if path and record.single_output(path) == key and key not in calls[0].inputs
    ]
    return max(makers, key=lambda path: path.count("."), default=None) if key in record.producer else None


def _taker(key: Key, record: Trace) -> str | None:
    """The outermost module, called once, with this tensor as its first argument and all its readers inside."""
    readers = {node.module for node in record.consumers[key]}
    for path, calls in record.calls.items():
        inside = all(reader == path or reader.startswith(f"{path}.") for reader in readers)
        takes = len(calls) == 1 and calls[0].takes_tensor and calls[0].inputs[:1] == (key,)
        if path and takes and inside:
            return path
    return None
