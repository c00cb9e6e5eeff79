"""Run a model once on its example input and learn which channels move together.

Two modes are open during the run: a dispatch mode sees every operation that reaches a kernel and moves id planes
through it (`rules`), and a function mode sees the calls that Python makes, with the numbers that fix shapes (`calls`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...core.tensors.dtypes import fit_inputs
from ...core.types import Inputs, call
from .channel_ids import Frozen, Ids, core, freeze, varying
from .modes import (
    Dispatch,
    Functions,
    plain_kernels,
    positions,
    scripted,
    scripted_children,
    unchanged_attributes,
    user_line,
)
from .records import Cost, Count, Stored
from .symbolic_int import AttributeKey, Axis, Expr, attribute_numbers, expression, leaves

#: why the channels of the last layers stay
OUTPUT = "it reaches the model's output"


class Trace:
    """What one run found: ids and their ties, stored tensors, numbers that must hold, and costs.

    Args:
        keep: ids that stay, (ids,) bool; where given, what goes is zeroed at the inputs of contractions and left out of
            statistics, so the run computes what the cut model must compute.
        attention: whether attention loses whole heads, or the same dimensions within every head.
        like: the run whose ids `keep` speaks of; in another number type a model may use its tensors in another order.
    """

    def __init__(self, keep: np.ndarray | None = None, attention: str = "heads", like: Trace | None = None):
        self.ids: Ids = Ids(like.ids if like is not None else None)
        self.keep = None if keep is None else torch.from_numpy(keep)
        self.attention = attention
        self.stored: dict[int, Stored] = {}
        self.counts: list[Count] = []
        self.costs: list[Cost] = []
        self.outputs: list[Cost] = []  # bytes of what contractions make, as products of widths
        self.boxes: list[tuple[Tensor, str]] = []
        self.group_norms: list[tuple[Tensor, str]] = []  # ids, (groups, channels a group)
        self.norm_axes: dict[int, int | None] = {}  # group norm -> axis kept apart, where norms meet
        self.consumed: list[np.ndarray] = []
        self.numbered: list[np.ndarray] = []  # ids of rows, or experts, that are looked up by number
        self.multiples: list[tuple[np.ndarray, int]] = []  # ids of which a kernel reads multiples of a number only
        self.unknown: dict[str, str] = {}
        self.values: dict[AttributeKey, int] = {}
        self.running = False
        self.pads: list[Any] | None = None  # numbers of the F.pad call under way
        self.path: list[str] = [""]

    # planes of tensors -------------------------------------------------------------------------------------------
    def planes(self, tensor: Tensor) -> list[Tensor]:
        """The id planes of an activation, parameter or buffer; none for a constant."""
        stored = self.stored.get(id(tensor))
        if stored is not None:
            if not stored.used:
                self._use(stored)
            return stored.planes
        return getattr(tensor, "_id_planes", [])

    def set(self, tensor: Tensor, planes: list[Tensor]) -> None:
        """Give an activation its planes, dropping those that do not change at all."""
        vars(tensor)["_id_planes"] = [plane for plane in planes if varying(plane)]

    def _use(self, stored: Stored) -> None:
        stored.used = True
        if not stored.tensor.is_floating_point():
            return  # indices and counters hold no channels
        shape = stored.tensor.shape
        for d, size in enumerate(shape):
            ids = self.ids.new(size, (stored.names[0], d))
            stored.ids.append(ids)
            if size > 1:
                view = [1] * len(shape)
                view[d] = size
                stored.planes.append(ids.view(view).expand(shape))
            if stored.stays or not stored.persistent:
                self.ids.pin(ids, stored.stays or f"{stored.names[0]} is a buffer that is not saved")

    def axis(self, tensor: Tensor, dim: int) -> Axis:
        """The ids along one dimension of a tensor."""
        return self.axis_of(self.planes(tensor), dim, tensor.size(dim))

    def axis_of(self, planes: list[Tensor], dim: int, size: int) -> Axis:
        """The ids along one dimension of a list of planes."""
        rows = [core(p).movedim(dim, -1).reshape(-1, size).numpy() for p in planes if dim in varying(p)]
        return Axis(tuple(rows), size, self)

    def site(self, what: str) -> str:
        """Where the run stands, for messages: the module, and the line of its code."""
        line = user_line()
        return self.place(what) + (f" ({line})" if line else "")

    def place(self, what: str) -> str:
        """The module that runs, for messages."""
        return f"{what} in {self.path[-1] or 'the model'}"

    # what calls and rules record -----------------------------------------------------------------------------------
    def number(self, tensor: Tensor, dim: int, value: Any, what: str) -> None:
        """A number fixed the size of a dimension of a new activation: hard-coded, it freezes the dimension."""
        dim %= tensor.dim()
        planes = self.planes(tensor)
        if not any(dim in varying(plane) for plane in planes):
            return
        expr = expression(value)
        if any(axis.owner is not self for axis in leaves(expr, "size")):
            return  # a number that some library cached in an earlier run says nothing here
        if not leaves(expr, "attr") and not leaves(expr, "size"):
            reason = self.site(f"{what} with the number {int(value)}")
            self.set(tensor, [freeze(self.ids, plane, [dim], reason) for plane in planes])
            return
        self.counts.append(Count(self.axis(tensor, dim), expr, self.site(what)))

    def count(self, ids: np.ndarray, value: Any, what: str) -> None:
        """A number must equal how many of some ids stay; hard-coded, it pins them."""
        if not len(ids):
            return
        expr = expression(value)
        if not leaves(expr, "attr") and not leaves(expr, "size"):
            self.ids.pin(torch.from_numpy(ids), self.site(f"{what} with the number {int(value)}"))
        else:
            self.counts.append(Count(Axis((ids.reshape(1, -1),), len(ids), self), expr, self.site(what)))

    def compared(self, axis: Axis, expr: Expr) -> None:
        """The size of an activation was compared with a number and was equal: an assertion, or a choice of a branch."""
        if not self.running or any(other.owner is not self for other in leaves(expr, "size")):
            return
        what = "a comparison of sizes"
        if leaves(expr, "attr") or leaves(expr, "size"):
            self.counts.append(Count(axis, expr, self.site(what)))
            return
        for rows in axis.planes:
            ids = torch.from_numpy(rows)
            self.ids.unite(ids, ids[:, :1], self.site(what))
            self.ids.frozen.append(Frozen(rows[:, 0], self.site(f"{what} with the number {axis.size}")))

    def cost(self, constant: int, axes: list[Axis]) -> None:
        """Note the multiply-accumulates of a contraction."""
        fixed = constant
        for axis in axes:
            fixed *= 1 if axis.planes else axis.size
        self.costs.append(Cost(fixed, tuple(axis for axis in axes if axis.planes), self.path[-1]))

    def contracted(self, output: Any) -> None:
        """Note the bytes that a contraction made."""
        made = output[0] if isinstance(output, tuple | list) and output else output
        if self.keep is not None or not isinstance(made, Tensor):
            return
        axes = [self.axis(made, dim) for dim in range(made.dim())]
        fixed = made.element_size() * prod(axis.size for axis in axes if not axis.planes)
        self.outputs.append(Cost(fixed, tuple(axis for axis in axes if axis.planes), self.path[-1]))

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is stored, or a rearranged stored tensor."""
        return id(tensor) in self.stored or getattr(tensor, "_is_weight", False)

    def consume(self, tensor: Tensor, ids: Tensor) -> None:
        """Note ids of a weight that a contraction sums over."""
        if self.is_weight(tensor):
            self.consumed.append(core(ids).reshape(-1).numpy())

    def marked(self, rows: list[np.ndarray]) -> np.ndarray:
        """Which ids are among some rows of them, (ids,) bool."""
        mask = np.zeros(self.ids.count, dtype=bool)
        for ids in rows:
            mask[ids] = True
        return mask

    def output_dims(self) -> dict[int, int]:
        """For each stored tensor (by id), the dimension of its outputs: the first, or where its positions are looked up
        by number (rows of a table, experts) the first other one that no contraction sums over."""
        consumed, numbered = self.marked(self.consumed), self.marked(self.numbered)
        found = {}
        for key, stored in self.stored.items():
            dims = [d for d, ids in enumerate(stored.ids) if not numbered[ids.numpy()].any()]
            outputs = [d for d in dims if not consumed[stored.ids[d].numpy()].any()]
            found[key] = 0 if 0 in dims else next(iter([*outputs, *dims]), 0)
        return found

    # the masked run ------------------------------------------------------------------------------------------------
    def masked(self, tensor: Tensor) -> Tensor:
        """An activation with what goes set to zero (the masked run); unchanged when tracing."""
        if self.keep is None or not isinstance(tensor, Tensor) or id(tensor) in self.stored:
            return tensor
        for plane in self.planes(tensor):
            tensor = tensor * self.keep[core(plane)].to(tensor)
        return tensor

    def kept_positions(self, tensor: Tensor, dim: int) -> Tensor | None:
        """Positions along a dimension that stay; None if all do."""
        if self.keep is None:
            return None
        axis = self.axis(tensor, dim)
        mask = axis.mask(self.keep.numpy())
        return None if mask.all() else torch.from_numpy(np.flatnonzero(mask)).to(tensor.device)


def run(
    module: nn.Module,
    example: Inputs,
    *,
    keep: np.ndarray | None = None,
    attention: str = "heads",
    like: Trace | None = None,
) -> tuple[Trace, Any]:
    """Run a model on an example input and trace its channels.

    Args:
        module: the model, in eval mode; it is left unchanged.
        example: inputs that the model accepts.
        keep: see Trace.
        attention: "heads" or "dims".
        like: see Trace.
    Returns:
        the trace, and the outputs of the run.
    """
    trace = Trace(keep, attention, like)
    example = fit_inputs(module, example)  # before the run, whose operations are all the model's
    _register(trace, module)
    with (
        torch.no_grad(),
        unchanged_attributes(module),
        plain_kernels(module),
        positions(trace, module),
        scripted(trace, module),
        attribute_numbers(module) as numbers,
    ):
        trace.values = numbers.values
        with Functions(trace), Dispatch(trace):
            trace.running = True
            outputs = call(module, example)
            trace.running = False
    for tensor in pytree.tree_leaves(_open(outputs)):
        if isinstance(tensor, Tensor):
            for plane in trace.planes(tensor):
                trace.ids.pin(plane, OUTPUT)
    return trace, outputs


def _open(outputs: Any) -> Any:
    """Outputs of library classes that are mappings become plain ones."""
    return dict(outputs) if isinstance(outputs, Mapping) else outputs


def _register(trace: Trace, module: nn.Module) -> None:
    frozen = scripted_children(module)
    for path, child in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        owner = next((name for name in frozen if name == "" or path == name or path.startswith(f"{name}.")), None)
        for name, tensor in [*child._parameters.items(), *child._buffers.items()]:
            if tensor is None:
                continue
            stored = trace.stored.setdefault(id(tensor), Stored([], tensor))
            stored.names.append(prefix + name)
            stored.looked_up &= isinstance(child, nn.Embedding | nn.EmbeddingBag)
            if owner is not None:
                stored.stays = f"{owner or 'the model'} is scripted, so its code cannot follow"
            else:
                stored.persistent &= name not in child._non_persistent_buffers_set
