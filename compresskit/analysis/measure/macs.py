"""Multiply-accumulates (MACs), counted while a model runs: the one engine behind every figure of that name.

One MAC is one multiplication whose product is summed with others: matrix products of any form, convolutions,
attention, recurrent layers, grouped products of experts, bilinear forms, distances. Element-wise operations, norms,
pooling, interpolation, table look-ups and Fourier transforms count nothing. Attention and convolution count densely:
neither a mask nor padding makes them cheaper. A product with a sparse tensor counts its stored elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import flop_counter

from ...core.tensors.dispatch import OperationMode, as_written, unfused
from ...core.tensors.modules import evaluating
from ...core.types import Inputs, call

#: (arguments by name, output) -> MACs
Formula = Callable[[dict[str, Any], Any], int]


@dataclass
class MacCount:
    """What one run cost.

    Attributes:
        total: MACs of the whole run.
        by_module: MACs of the operations that each module ran itself, not those of its children; "" is the model.
        uncounted: operations from outside of torch whose cost nobody knows, by name.
        output_bytes: bytes of what the counted operations made.
    """

    total: int = 0
    output_bytes: int = 0
    by_module: dict[str, int] = field(default_factory=dict)
    uncounted: set[str] = field(default_factory=set)


def count_macs(module: nn.Module, inputs: Inputs) -> MacCount:
    """MACs of one forward in eval mode; modes and settings are as before when it returns.

    An operation of a user's own counts where its formula is registered by `torch.utils.flop_counter`.

    Args:
        module: the model.
        inputs: one batch that it takes.
    """
    return as_written(lambda: _counted(module, inputs))


@torch.no_grad()
def _counted(module: nn.Module, inputs: Inputs) -> MacCount:
    found = MacCount()
    # fused encoder layers would be attributed as a whole
    with unfused(), evaluating(module), _positions(module) as path, _Counter(found, path):
        call(module, inputs)
    return found


def operation_macs(func: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> int:
    """MACs of one operation as a dispatch mode sees it; 0 for one that multiplies and sums nothing."""
    formula = FORMULAS.get(func._schema.name)
    if formula is not None:
        return int(formula({**dict(zip(_argument_names(func), args, strict=False)), **kwargs}, output))
    registered = flop_counter.flop_registry.get(func._overloadpacket)
    return int(registered(*args, **kwargs, out_val=output)) // 2 if registered else 0


def main_bytes(output: Any) -> int:
    """Bytes of what an operation made; of several tensors, those of the first (attention keeps sums beside it)."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first.numel() * first.element_size() if isinstance(first, Tensor) else 0


class _Counter(OperationMode):
    supports_higher_order_operators = True

    def __init__(self, found: MacCount, path: list[str]):
        super().__init__()
        self.found = found
        self.path = path

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if isinstance(func, torch._ops.HigherOrderOperator):
            return self._control_flow(func, args, kwargs)
        if any(kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl for kind in types):
            return NotImplemented  # a tensor subclass takes itself apart; its operations come by here again
        known = func._schema.name in FORMULAS or func._overloadpacket in flop_counter.flop_registry
        if not known and func._can_decompose():
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if known:
            self._add(operation_macs(func, args, kwargs, output), output)
        elif func.namespace not in _KNOWN_NAMESPACES and func._schema.name not in _FREE:
            self.found.uncounted.add(func._schema.name)
        return output

    def _control_flow(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Branches and loops run what they hold, so that it counts as often as it ran."""
        name = func.name()
        if name == "cond":
            predicate, if_true, if_false, operands = args
            with self:
                return (if_true if predicate else if_false)(*operands)
        if name == "while_loop":
            condition, body, carried, additional = args
            with self:
                while condition(*carried, *additional):
                    carried = body(*carried, *additional)
            return carried
        output = func(*args, **kwargs)
        registered = flop_counter.flop_registry.get(func)
        if registered:
            self._add(registered(*args, **kwargs, out_val=output) // 2, output)
        else:
            self.found.uncounted.add(name)
        return output

    def _add(self, macs: int, output: Any) -> None:
        self.found.total += macs
        if macs:
            self.found.output_bytes += main_bytes(output)
            where = self.path[-1]
            self.found.by_module[where] = self.found.by_module.get(where, 0) + macs


@contextmanager
def _positions(module: nn.Module) -> Iterator[list[str]]:
    """A list whose last entry is the name of the module that is running."""
    names = {id(child): name for name, child in module.named_modules()}
    path = [""]

    def enter(child: nn.Module, _inputs: Any) -> None:
        path.append(names.get(id(child), path[-1]))

    def leave(_child: nn.Module, _inputs: Any, _output: Any) -> None:
        path.pop()

    handles = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield path
    finally:
        for handle in handles:
            handle.remove()


@cache
def _argument_names(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


# formulas ------------------------------------------------------------------------------------------------------------
def _product(left: str, right: str | None = None) -> Formula:
    """(..., m, k) x (..., k, n): k for each element of the output."""

    def formula(named: dict[str, Any], output: Any) -> int:
        a, b = named[left], named.get(right) if right else None
        if b is None:
            return output.numel() * a.shape[-1]
        if a.layout is not torch.strided:
            return _stored(a) * b.shape[-1]
        if b.layout is not torch.strided:
            return _stored(b) * (a.numel() // a.shape[-1])
        if a.is_nested:
            return sum(one.numel() * other.shape[-1] for one, other in zip(*_parts(a, b), strict=True))
        return output.numel() * a.shape[-1]

    return formula


def _stored(sparse: Tensor) -> int:
    return sparse._values().numel() if sparse.layout is torch.sparse_coo else sparse.values().numel()


def _parts(a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    first = list(a.unbind())
    return first, list(b.unbind()) if b.is_nested else [b] * len(first)


def _convolution(named: dict[str, Any], output: Any) -> int:
    """Each output (transposed: each input) element meets one filter's elements."""
    x = named["self"] if "self" in named else named["input"]
    return int((x if named.get("transposed") else output).numel() * named["weight"][0].numel())


def _packed_weights(named: dict[str, Any]) -> list[Tensor]:
    """Weights that quantized operations hold packed."""
    packed: list[Any] = [value for value in named.values() if isinstance(value, torch.ScriptObject)]
    packed += [linear for cell in named.get("params", ()) for linear in cell.__getstate__()[0][4]]
    return [each.unpack()[0] for each in packed]


def _quantized(named: dict[str, Any], _output: Any) -> int:
    """Linear layers, recurrent layers and cells: each packed matrix meets every row once."""
    x = next(iter(named.values()))
    return x.numel() // x.shape[-1] * sum(weight.numel() for weight in _packed_weights(named))


def _quantized_convolution(named: dict[str, Any], output: Any) -> int:
    return output.numel() * _packed_weights(named)[0][0].numel()


def _quantized_transposed_convolution(named: dict[str, Any], _output: Any) -> int:
    return next(iter(named.values())).numel() * _packed_weights(named)[0][0].numel()


def _attention(named: dict[str, Any], output: Any) -> int:
    """Queries by keys, and their weights by values: (batch, heads, tokens, dims) each."""
    query, key, value = named["query"], named["key"], named["value"]
    result = output[0] if isinstance(output, tuple | list) else output
    if query.is_nested:
        parts = (tensor.unbind() for tensor in (query, key, value))
        return sum(_attention_macs(q.numel() // q.shape[-1], k, v) for q, k, v in zip(*parts, strict=True))
    return _attention_macs(result.numel() // result.shape[-1], key, value)


def _attention_macs(rows: int, key: Tensor, value: Tensor) -> int:
    return rows * key.shape[-2] * (key.shape[-1] + value.shape[-1])


def _fused_attention(named: dict[str, Any], query: Tensor, key: Tensor, value: Tensor) -> int:
    """Four projections of width E, and attention over all heads at once."""
    width = named["embed_dim"]
    projections = (2 * query.numel() + key.numel() + value.numel()) * width
    both = zip(query.unbind(), key.unbind(), strict=True)
    return projections + sum(2 * q.shape[0] * k.shape[0] * width for q, k in both)


def _encoder_layer(named: dict[str, Any], _output: Any) -> int:
    x = named["src"]
    return _fused_attention(named, x, x, x) + 2 * x.numel() * named["ffn_weight_1"].shape[0]


def _recurrent(*weights: str) -> Formula:
    """Each matrix of each layer and direction meets every token once."""

    def formula(named: dict[str, Any], _output: Any) -> int:
        x = named["input"]
        given = [named[name] for name in weights]
        matrices = [w for entry in given for w in (entry if isinstance(entry, list | tuple) else [entry])]
        return x.numel() // x.shape[-1] * sum(w.numel() for w in matrices if w.dim() == 2)

    return formula


def _grouped(left: str, right: str) -> Formula:
    """Rows that are sorted by group, each group with a matrix of its own; rows behind the last group are not computed.

    (rows, k) x (groups, k, n); (groups, m, k) x (k, rows); (groups, m, k) x (groups, k, n); (m, rows) x (rows, n).
    """

    def formula(named: dict[str, Any], _output: Any) -> int:
        a, b, offsets = named[left], named[right], named.get("offs")
        if offsets is None:
            return a.numel() * b.shape[-1]
        ends = int(offsets[-1]) if offsets.device.type != "meta" else None
        if a.dim() == 2 and b.dim() == 3:
            return (a.shape[0] if ends is None else ends) * a.shape[1] * b.shape[2]
        if a.dim() == 3:
            return (b.shape[1] if ends is None else ends) * a.shape[1] * a.shape[2]
        return (a.shape[1] if ends is None else ends) * a.shape[0] * b.shape[1]

    return formula


def _trilinear(named: dict[str, Any], _output: Any) -> int:
    """A bilinear form: every element of its weight once for every row of its inputs."""
    shapes = []
    for number in (1, 2, 3):
        shape = list(named[f"i{number}"].shape)
        for dim in sorted(named[f"expand{number}"]):
            shape.insert(dim, 1)
        shapes.append(shape)
    return prod(torch.broadcast_shapes(*shapes))


def _named(namespace: str, names: str, formula: Formula) -> dict[str, Formula]:
    return {f"{namespace}::{name}": formula for name in names.split()}


_KNOWN_NAMESPACES = {"aten", "prim", "prims", "quantized", "quantized_decomposed", "profiler", "inductor"}
_FREE = {f"torchvision::{name}" for name in ("nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")}

#: name of an operation -> its formula; whatever is not here decomposes into what is, or multiplies and sums nothing
FORMULAS: dict[str, Formula] = {
    **_named("aten", "mm bmm _int_mm _weight_int8pack_mm", _product("self", "mat2")),
    **_named("aten", "addmm addmm_ _addmm_activation _sparse_addmm", _product("mat1", "mat2")),
    **_named("aten", "baddbmm baddbmm_", _product("batch1", "batch2")),
    **_named("aten", "addbmm addbmm_", lambda named, _: named["batch1"].numel() * named["batch2"].shape[-1]),
    **_named("aten", "addmv addmv_", lambda named, _: named["mat"].numel()),
    **_named("aten", "mv dot vdot", lambda named, _: named["self"].numel()),
    "aten::matmul": _product("self", "other"),
    **_named("aten", "linear mkldnn_linear", lambda named, output: output.numel() * named["weight"].shape[-1]),
    **_named("aten", "_scaled_mm _scaled_mm_v2 _weight_int4pack_mm _weight_int4pack_mm_for_cpu "
             "_weight_int4pack_mm_with_scales_and_zeros", _product("self")),
    "aten::_dyn_quant_matmul_4bit": _product("inp"),
    **_named("aten", "_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2", _grouped("self", "mat2")),
    "transformers::grouped_mm_fallback": _grouped("input", "weight"),
    **_named("aten", "convolution _convolution convolution_overrideable cudnn_convolution cudnn_convolution_relu "
             "cudnn_convolution_add_relu miopen_convolution miopen_depthwise_convolution mkldnn_convolution "
             "_slow_conv2d_forward _mps_convolution", _convolution),
    "torchvision::deform_conv2d": _convolution,
    "aten::conv_tbc": lambda named, output: output.numel() * prod(named["weight"].shape[:2]),
    **_named("aten", "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
             "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
             "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps",
             _attention),
    "aten::_native_multi_head_attention":
        lambda named, _: _fused_attention(named, named["query"], named["key"], named["value"]),
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
    "aten::mkldnn_rnn_layer": _recurrent("weight0", "weight1"),
    **_named("aten", "_cudnn_rnn miopen_rnn", _recurrent("weight")),
    "aten::_lstm_mps": _recurrent("params"),
    **_named("aten", "quantized_lstm quantized_gru", _quantized),
    **_named("quantized", "linear linear_relu linear_dynamic linear_relu_dynamic linear_leaky_relu linear_tanh "
             "linear_dynamic_fp16 linear_relu_dynamic_fp16 quantized_lstm_cell_dynamic quantized_gru_cell_dynamic "
             "quantized_rnn_relu_cell_dynamic quantized_rnn_tanh_cell_dynamic", _quantized),
    **_named("quantized", "conv1d conv2d conv3d conv1d_relu conv2d_relu conv3d_relu conv1d_dynamic conv2d_dynamic "
             "conv3d_dynamic conv2d_add conv2d_add_relu", _quantized_convolution),
    **_named("quantized", "conv_transpose1d conv_transpose2d conv_transpose3d conv_transpose1d_dynamic "
             "conv_transpose2d_dynamic conv_transpose3d_dynamic", _quantized_transposed_convolution),
    "aten::_trilinear": _trilinear,
    **_named("aten", "_cdist_forward _euclidean_dist", lambda named, output: output.numel() * named["x1"].shape[-1]),
}  # fmt: skip
