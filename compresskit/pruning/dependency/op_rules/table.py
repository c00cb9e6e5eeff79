"""How id planes move through each kind of operation.

One table, from an operation's name to its rule. Layout operations are executed on the planes themselves (`moves`).
Element-wise ones tie what they meet. Contractions are in `contract`, norms in `norms`. Reductions drop dimensions
(`reductions`). Anything unknown pins the ids that reach it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...tables import OP_RULES
from . import contraction, layout, normalization, reduction
from .elementwise import elementwise
from .schema import flat, freeze_input, plain_name, unknown

Trace = Any

_PYTORCHS = ("aten::", "prim::", "prims::")
_LAYOUT = [
    "view", "_unsafe_view", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice", "repeat",
    "unfold", "diagonal", "alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "_reshape_alias", "narrow",
    "swapaxes", "movedim", "numpy_T", "adjoint", "mT",
]  # fmt: skip
_SPATIAL = {
    "max_pool1d": 1, "max_pool2d": 2, "max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3,
    "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "adaptive_avg_pool1d": 1, "_adaptive_avg_pool2d": 2,
    "adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "_upsample_nearest_exact2d": 2, "upsample_nearest3d": 3,
    "upsample_linear1d": 1, "upsample_bilinear2d": 2, "_upsample_bilinear2d_aa": 2, "upsample_bicubic2d": 2,
    "_upsample_bicubic2d_aa": 2, "upsample_trilinear3d": 3, "reflection_pad1d": 1, "reflection_pad2d": 2,
    "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3, "grid_sampler_2d": 2,
}  # fmt: skip
_REDUCE = [
    "sum", "mean", "var", "std", "var_mean", "amax", "amin", "linalg_vector_norm", "norm", "logsumexp", "prod", "any",
    "all", "max", "min", "median", "nanmedian", "aminmax",
]  # fmt: skip
_ALONG = [
    "_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "argmax", "argmin", "topk", "roll", "flip", "softmax",
    "log_softmax", "logcumsumexp",
]  # fmt: skip
_LIKE = [
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_empty", "new_full",
]  # fmt: skip
_POINTWISE = [
    "copy_", "copy", "fill_", "fill", "zero_", "where", "native_dropout", "bernoulli_", "bernoulli", "masked_fill",
    "_prelu_kernel", "hardswish", "log_sigmoid_forward", "floor_divide",
]  # fmt: skip


@functools.cache
def _is_pointwise(func: Any, base: str) -> bool:
    """Whether an operation, or the out-of-place form of it, is element-wise."""
    packet = getattr(torch.ops.aten, base, None)
    plain = [getattr(packet, overload) for overload in packet.overloads()] if packet else []
    return any(torch.Tag.pointwise in operation.tags for operation in [func, *plain])


def apply(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation and give its outputs their planes."""
    name = plain_name(func)
    base = name.rstrip("_") if name.endswith("_") and not name.endswith("__") else name
    tensors = [arg for arg in flat(args, kwargs) if isinstance(arg, Tensor)]
    if not any(trace.planes(tensor) for tensor in tensors):
        return func(*args, **kwargs)
    if name not in ("cat", "stack") and any(tensor.numel() == 0 for tensor in tensors):
        return _empty(trace, func(*args, **kwargs), tensors, name)
    handler = _own_rule(func) or RULES.get(name) or RULES.get(base)
    if handler is None:
        if name in _POINTWISE or base in _POINTWISE or _is_pointwise(func, base):
            handler = pointwise
        else:
            composite = func.decompose(*args, **kwargs) if func._can_decompose() else NotImplemented
            if composite is not NotImplemented:
                return composite
            handler = unknown
    output = handler(trace, func, args, kwargs)
    results = [result for result in flat((output,), {}) if isinstance(result, Tensor)]
    if handler not in (layout.layout, layout.split) and results and all(result.numel() == 0 for result in results):
        return _empty(trace, output, tensors, name)
    return output


def _own_rule(func: Any) -> Callable | None:
    """The user's rule for an operation that is not PyTorch's."""
    name = func._schema.name
    return OP_RULES.load(name) if not name.startswith(_PYTORCHS) and OP_RULES.has(name) else None


def _empty(trace: Trace, output: Any, tensors: list[Tensor], name: str) -> Any:
    """Where no element passes (no box was found), nothing can be proven: what meets it stays."""
    for tensor in tensors:
        for plane in trace.planes(tensor):
            trace.ids.pin(plane, f"the example input leaves {trace.place(name)} without any element")
    for result in flat((output,), {}):
        if isinstance(result, Tensor) and result.numel() == 0:
            vars(result)["_id_planes"] = []
    return output


def pointwise(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """The rule of element-wise operations: what meets in an element stays or goes together."""
    output = func(*args, **kwargs)
    tensors = [arg for arg in flat(args, kwargs) if isinstance(arg, Tensor)]
    for result in output if isinstance(output, tuple | list) else [output]:
        if isinstance(result, Tensor):
            trace.set(result, elementwise(trace, tensors, result.shape, plain_name(func)))
    return output


def _like(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    if output.shape == args[0].shape:
        trace.set(output, list(trace.planes(args[0])))
    return output


def _triangle(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    freeze_input(trace, args[0], [-1, -2], trace.site(plain_name(func)))
    return pointwise(trace, func, args, kwargs)


RULES: dict[str, Callable] = {
    **dict.fromkeys(_LAYOUT, layout.layout),
    **dict.fromkeys(_REDUCE, reduction.reduce),
    **dict.fromkeys(_ALONG, reduction.along),
    **dict.fromkeys(_LIKE, _like),
    **{name: functools.partial(reduction.spatial, count) for name, count in _SPATIAL.items()},
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "chunk", "unsafe_chunk"), layout.split),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
                     "cudnn_batch_norm", "_batch_norm_no_update"), normalization.batch_norm),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), normalization.layer_norm),
    **dict.fromkeys(("roi_align", "roi_pool", "ps_roi_align"), layout.roi),
    "as_strided_": layout.as_strided,
    **dict.fromkeys(("triu", "tril"), _triangle),
    "glu": layout.glu,
    **dict.fromkeys(("select", "unbind"), layout.select),
    "cat": layout.cat,
    "stack": layout.stack,
    "constant_pad_nd": layout.pad,
    "embedding": layout.embedding,
    "index": layout.index,
    "index_put": layout.index_put,
    "index_select": layout.index_select,
    **dict.fromkeys(("index_add", "scatter_add"), layout.index_add),
    "native_group_norm": normalization.group_norm,
    "convolution": contraction.convolution,
    "deform_conv2d": contraction.deformable_convolution,
    "mm": contraction.matrix,
    "bmm": contraction.matrix,
    "addmm": contraction.added_matrix,
    "baddbmm": contraction.added_matrix,
    "addbmm": unknown,
    **dict.fromkeys(("_grouped_mm", "grouped_mm_fallback"), contraction.experts),
    "_scaled_dot_product_flash_attention_for_cpu": contraction.attention,
    "_scaled_dot_product_attention_math": contraction.attention,
    "_scaled_dot_product_fused_attention_overrideable": contraction.attention,
    "_scaled_dot_product_flash_attention": contraction.attention,
    "_scaled_dot_product_efficient_attention": contraction.attention,
    "_scaled_dot_product_cudnn_attention": contraction.attention,
}  # fmt: skip
