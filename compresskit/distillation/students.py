"""Students made from their teacher: fewer blocks, narrower layers, weights inherited.

A narrower student keeps every n-th channel of every hidden dimension. Spreading the choice evenly keeps channels
aligned through additions, concatenations, splits and attention heads, so what is inherited still fits together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..analysis.answering_layers import answering_layers
from ..analysis.calibration.hooks import run_watched
from ..analysis.dataflow import first_tensor
from ..artifact.edits import replay
from ..artifact.skips import skip_edit
from ..core.errors import InputError, first_line
from ..core.tensors.modules import get_module
from ..core.types import Inputs, Loaded, call, main_output

#: integer attributes that a forward pass reads and that follow the width
_WIDTH_ATTRIBUTES = (
    "in_channels",
    "out_channels",
    "in_features",
    "out_features",
    "num_features",
    "num_channels",
    "embed_dim",
    "d_model",
    "kdim",
    "vdim",
    "head_dim",
    "attention_head_size",
    "all_head_size",
    "attn_dim",
    "hidden_dim",
    "num_embeddings_dim",
    "embedding_dim",
    "pad_before",
    "pad_after",
    "split_size",
    "normalized_shape",
)


class _Call(NamedTuple):
    """How a block is called: shapes that enter and leave, whether one tensor does each, how to leave the block out."""

    entered: tuple[int, ...]
    left: tuple[int, ...]
    alone: bool
    skip: dict[str, Any] | None


def make_student(teacher: Loaded, *, width: float = 1.0, depth: float = 1.0) -> Loaded:
    """A smaller copy of a model, with the weights of the blocks and channels that stay.

    Args:
        teacher: the model; it is left as it is.
        width: share of channels to keep in every hidden layer, above 0, at most 1.
        depth: share of blocks to keep in every run of like blocks, above 0, at most 1.
    Returns:
        the student, its edits describing what was cut.
    Raises:
        InputError: where the model cannot be cut this way.
    """
    student = teacher.clone()
    with torch.no_grad():
        expected = _shape(call(student.module.eval(), student.example))
    if depth < 1:
        _drop_blocks(student, depth)
    if width < 1:
        _narrow(student, width)
    student.name = f"{teacher.name} at width {width:g}, depth {depth:g}"
    try:
        with torch.no_grad():
            found = _shape(call(student.module, student.example))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(_cannot(teacher, width, depth, first_line(error))) from error
    if found != expected:
        raise InputError(_cannot(teacher, width, depth, f"its output becomes {list(found)}, not {list(expected)}"))
    return student


def _shape(outputs: Any) -> tuple[int, ...]:
    """Of the main output; how many boxes there are says nothing."""
    shape = tuple(main_output(outputs).shape)
    return shape[1:] if isinstance(outputs, list) else shape


def _cannot(teacher: Loaded, width: float, depth: float, why: str) -> str:
    cut = f"width {width:g} and depth {depth:g}"
    remedy = f"prune it by ratio {1 - width:g} with recover kd" if width < 1 else "prune its blocks with recover kd"
    return f"{teacher.name} cannot be made a student of {cut} ({why}); name a student, or {remedy}"


def removable_blocks(module: nn.Module, calls: dict[str, _Call]) -> list[list[tuple[str, bool]]]:
    """Runs of like blocks, each block with whether it may go.

    A run is made of consecutively numbered siblings of one class with equal output shapes; a block may go if its
    input has that shape too.

    Args:
        module: the model.
        calls: how it calls its modules, from `block_calls`.
    """
    runs: list[list[tuple[str, bool]]] = []
    previous: tuple[Any, ...] = ()
    for name, child in module.named_modules():
        parent, _, number = name.rpartition(".")
        if not number.rpartition("_")[2].isdigit() or name not in calls or _is_plain(child):
            continue
        one = calls[name]
        key = (parent, type(child), one.left)
        if key != previous:
            runs.append([])
        previous = key
        runs[-1].append((name, one.skip is not None))
    return [run for run in runs if len(run) > 1]


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a single layer or only a list of others, not a block with its own forward."""
    return type(module) in (nn.Sequential, nn.ModuleList) or not list(module.children())


def block_calls(module: nn.Module, inputs: Inputs) -> dict[str, _Call]:
    """What each module of a model took in and gave back in one run, by name."""
    calls: dict[str, _Call] = {}

    def note(name: str, entered: tuple, named: dict[str, Any], left: Any) -> None:
        first, out = first_tensor((*entered, *named.values())), first_tensor(left)
        if name and first is not None and out is not None:
            alone = len(entered) == 1 and not named and isinstance(left, Tensor)
            skip = skip_edit(name, get_module(module, name), entered, named, left)
            calls[name] = _Call(tuple(first.shape), tuple(out.shape), alone, skip)

    run_watched(module, inputs, note)
    return calls


def _drop_blocks(student: Loaded, depth: float) -> None:
    edits = []
    calls = block_calls(student.module, student.example)
    for run in removable_blocks(student.module, calls):
        kept = max(1, round(len(run) * depth))
        # evenly spread, the first always among them
        chosen = {round(place * (len(run) - 1) / max(kept - 1, 1)) for place in range(kept)}
        edits += [
            _leave_out(name, calls[name])
            for place, (name, removable) in enumerate(run)
            if place not in chosen and removable
        ]
    if not edits:
        raise InputError(
            f"student_depth: {student.name} has no run of like blocks to drop from; name a student instead"
        )
    replay(student.module, edits)
    student.edits += edits


def _leave_out(name: str, call: _Call) -> dict[str, Any]:
    """The edit that takes a block out: an identity, or what passes one of several arguments through."""
    if call.alone or call.skip is None:
        return {"op": "remove", "target": name}
    return dict(call.skip)


def kept_channels(channels: int, width: float) -> Tensor:
    """Evenly spread indices of the channels that stay; (round(channels * width),)."""
    count = max(1, round(channels * width))
    return (torch.arange(count, dtype=torch.float64) * channels / count).floor().long()


def _narrow(student: Loaded, width: float) -> None:
    fixed = _interface(student)
    edits, tensors = [], {}
    for path, module in student.module.named_modules():
        own = [
            (name, value)
            for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        ]
        shapes: dict[str, list[int]] = {}
        for name, value in own:
            cut = _cut(value, _hidden_axes(module, name, value, fixed.get(path, "")), width)
            if cut.shape != value.shape:
                shapes[name] = list(cut.shape)
                tensors[f"{path}.{name}" if path else name] = cut
        attributes = _attributes(module, width, fixed.get(path, ""))
        if shapes or attributes:
            edits.append({"op": "resize", "target": path, "shapes": shapes, "attributes": attributes})
    replay(student.module, edits)
    state = student.module.state_dict()
    student.module.load_state_dict({name: tensors.get(name, state[name]) for name in state})
    student.edits += edits


def _interface(student: Loaded) -> dict[str, str]:
    """Layers that touch the model's input or output: path -> "in" or "out", the side that keeps its size."""
    order: list[str] = []
    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | nn.Embedding
    layers = [name for name, child in student.module.named_modules() if isinstance(child, kinds)]
    run_watched(student.module, student.example, lambda name, *_: order.append(name), layers)
    if len(order) < 2:
        raise InputError(f"student_width: {student.name} has no hidden layer to narrow; name a student instead")
    answering = answering_layers(student.module, student.example, list(dict.fromkeys(order)), rows="any")
    touching = dict.fromkeys(answering, "out")
    touching |= {order[0]: "in", order[-1]: "out"}
    touching |= {name: "in" for name in order if isinstance(get_module(student.module, name), nn.Embedding)}
    return touching


def _hidden_axes(module: nn.Module, name: str, value: Tensor, side: str) -> list[int]:
    """Axes of a tensor that run over hidden channels."""
    if value.dim() == 0:
        return []
    if isinstance(module, nn.Embedding):
        return [1]
    if isinstance(module, nn.MultiheadAttention):
        return [axis for axis, size in enumerate(value.shape) if size > 1]
    weight = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    if not weight:
        # norms, scales and biases: the channels are the longest axis (position embeddings, layer scale)
        return (
            [max(range(value.dim()), key=lambda axis: (value.shape[axis] > 1, axis))]
            if value.dim() < 3
            else [value.dim() - 1]
        )
    axes = [] if side == "out" else [0]
    depthwise = getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1
    if name == "weight" and side != "in" and not depthwise:
        axes.append(1)
    return axes


def _cut(value: Tensor, axes: list[int], width: float) -> Tensor:
    for axis in axes:
        value = value.index_select(axis, kept_channels(value.shape[axis], width).to(value.device))
    return value


def _attributes(module: nn.Module, width: float, side: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _WIDTH_ATTRIBUTES:
        value = vars(module).get(name)
        if side == "in" and name.startswith("in_") or side == "out" and name.startswith("out_"):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found[name] = max(1, round(value * width))
        elif isinstance(value, tuple) and value:
            found[name] = [*value[:-1], max(1, round(value[-1] * width))]
    if getattr(module, "groups", 1) == getattr(module, "in_channels", 0) > 1:
        found["groups"] = found["in_channels"]
    return found
