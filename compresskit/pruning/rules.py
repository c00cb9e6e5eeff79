"""How id planes move through each kind of operation.

Layout operations are executed on the planes themselves. Element-wise ones tie what they meet. Contractions are in
`contract`. Reductions drop dimensions. Anything unknown pins the ids that reach it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import contract, norms
from .ids import compact, core, drop, freeze, varying, vector
from .merge import elementwise, join
from .operations import arguments, freeze_input, plain_name

Trace = Any

_LAYOUT = [
    "view",
    "_unsafe_view",
    "permute",
    "transpose",
    "t",
    "unsqueeze",
    "squeeze",
    "expand",
    "slice",
    "repeat",
    "unfold",
    "diagonal",
    "alias",
    "detach",
    "clone",
    "contiguous",
    "_to_copy",
    "lift_fresh",
    "lift_fresh_copy",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "_reshape_alias",
    "narrow",
    "swapaxes",
    "movedim",
    "numpy_T",
    "adjoint",
    "mT",
]
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
    "sum",
    "mean",
    "var",
    "std",
    "var_mean",
    "amax",
    "amin",
    "linalg_vector_norm",
    "norm",
    "logsumexp",
    "prod",
    "any",
    "all",
    "max",
    "min",
    "median",
    "nanmedian",
    "aminmax",
]
_ALONG = [
    "_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "sort",
    "argmax",
    "argmin",
    "topk",
    "roll",
    "flip",
    "softmax",
    "log_softmax",
    "logcumsumexp",
]
_LIKE = [
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
]
_POINTWISE = [
    "copy_",
    "copy",
    "fill_",
    "fill",
    "zero_",
    "where",
    "native_dropout",
    "bernoulli_",
    "bernoulli",
    "masked_fill",
    "_prelu_kernel",
    "hardswish",
    "log_sigmoid_forward",
    "floor_divide",
]


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
    tensors = [arg for arg in _flat(args, kwargs) if isinstance(arg, Tensor)]
    if not any(trace.planes(tensor) for tensor in tensors):
        return func(*args, **kwargs)
    handler = RULES.get(name) or RULES.get(base)
    if handler is None:
        if name in _POINTWISE or base in _POINTWISE or _is_pointwise(func, base):
            handler = _pointwise
        else:
            composite = func.decompose(*args, **kwargs) if func._can_decompose() else NotImplemented
            if composite is not NotImplemented:
                return composite
            handler = _unknown
    return handler(trace, func, args, kwargs)


def _flat(args: tuple, kwargs: dict) -> list:
    found = []
    for arg in (*args, *kwargs.values()):
        found.extend(arg) if isinstance(arg, tuple | list) else found.append(arg)
    return found


def _pointwise(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    tensors = [arg for arg in _flat(args, kwargs) if isinstance(arg, Tensor)]
    for result in output if isinstance(output, tuple | list) else [output]:
        if isinstance(result, Tensor):
            trace.set(result, elementwise(trace, tensors, result.shape, plain_name(func)))
    return output


def _like(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    if output.shape == args[0].shape:
        trace.set(output, list(trace.planes(args[0])))
    return output


def _layout(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    source = trace.planes(args[0])
    outputs = output if isinstance(output, tuple | list) else [output]
    moved = [_move(func, plane, args, kwargs, outputs) for plane in source]
    for index, result in enumerate(outputs):
        planes = [compact(planes[index]) for planes in moved]
        trace.set(result, planes)
        if trace.is_weight(args[0]):
            result._is_weight = True
        for plane in planes:
            if len(varying(plane)) > 1:
                trace.boxes.append((core(plane), trace.site(plain_name(func))))
    return output


def _move(func: Any, plane: Tensor, args: tuple, kwargs: dict, outputs: list) -> list[Tensor]:
    if plain_name(func) in ("view", "_unsafe_view", "_reshape_alias"):
        return [plane.reshape(outputs[0].shape)]
    if plain_name(func) in ("alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy"):
        return [plane]
    result = func(plane, *args[1:], **kwargs)
    return list(result) if isinstance(result, tuple | list) else [result]


def _select(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """select keeps one position and unbind gives each a name: the dimension cannot lose any."""
    dim = arguments(func, args, kwargs).get("dim", 0)
    freeze_input(trace, args[0], [dim], f"one position taken ({trace.site(plain_name(func))})")
    return _layout(trace, func, args, kwargs)


def _split(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Equal parts of a channel dimension stay equal: the same positions go from each."""
    output = _layout(trace, func, args, kwargs)
    dim = arguments(func, args, kwargs).get("dim", 0) % args[0].dim()
    if any(dim in varying(plane) for plane in trace.planes(args[0])):
        sizes = {part.size(dim) for part in output}
        if len(sizes) == 1 and len(output) > 1 and "with_sizes" not in plain_name(func):
            for part in output[1:]:
                for mine, first in zip(trace.planes(part), trace.planes(output[0]), strict=False):
                    trace.ids.unite(mine, first, trace.site("equal parts"))
    return output


def _glu(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """One half of a dimension gates the other: the same positions go from both."""
    output = func(*args, **kwargs)
    dim = arguments(func, args, kwargs).get("dim", -1) % args[0].dim()
    planes = []
    for plane in trace.planes(args[0]):
        first, second = plane.chunk(2, dim)
        trace.ids.unite(first, second, trace.site("glu"))
        planes.append(first)
    trace.set(output, planes)
    return output


def _triangle(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    freeze_input(trace, args[0], [-1, -2], trace.site(plain_name(func)))
    return _pointwise(trace, func, args, kwargs)


def _along(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Operations in which the positions along a dimension depend on each other."""
    names = arguments(func, args, kwargs)
    dims = names.get("dim", names.get("dims", -1))
    dims = list(range(args[0].dim())) if dims is None else list(dims) if isinstance(dims, tuple | list) else [dims]
    freeze_input(trace, args[0], dims, trace.site(plain_name(func)))
    output = func(*args, **kwargs)
    for result in output if isinstance(output, tuple | list) else [output]:
        if result.dim() == args[0].dim():
            trace.set(result, [_resized(core(plane), result.shape) for plane in trace.planes(args[0])])
    return output


def _resized(small: Tensor, shape: torch.Size) -> Tensor:
    return small.expand([size if small.size(d) == 1 else small.size(d) for d, size in enumerate(shape)])


def _reduce(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    names = arguments(func, args, kwargs)
    tensor = args[0]
    dims = names.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(tensor.dim()))
    dims = [d % max(tensor.dim(), 1) for d in dims]
    for d in dims:  # statistics are taken over what stays
        stays = trace.kept_positions(tensor, d)
        if stays is not None:
            planes = [plane.index_select(d, stays) for plane in trace.planes(tensor)]
            tensor = tensor.index_select(d, stays)
            trace.set(tensor, [compact(plane) for plane in planes])
    output = func(tensor, *args[1:], **kwargs)
    outputs = output if isinstance(output, tuple | list) else [output]
    for result in outputs:
        planes = []
        for plane in trace.planes(args[0]):
            left = drop(trace.ids, plane, dims, trace.site(plain_name(func)))
            if left is not None and result.dim() != plane.dim():
                for d in sorted(dims, reverse=True):
                    left = left.select(d, 0)
            if left is not None:
                planes.append(left)
        trace.set(result, planes)
    return output


def _spatial(count: int, trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Pooling, resampling and the like: the last `count` dimensions are space."""
    output = func(*args, **kwargs)
    dims = list(range(args[0].dim() - count, args[0].dim()))
    reason = trace.site(plain_name(func))
    planes = [freeze(trace.ids, plane, dims, reason) for plane in trace.planes(args[0])]
    for result in output if isinstance(output, tuple | list) else [output]:
        trace.set(result, [_resized(core(plane), result.shape) for plane in planes])
    return output


def _cat(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    dim = arguments(func, args, kwargs).get("dim", 0) % output.dim()
    tensors = [tensor for tensor in args[0] if tensor.dim() == output.dim()]  # cat skips legacy empty tensors
    trace.set(output, join(trace, tensors, dim, output.shape))
    return output


def _stack(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    dim = arguments(func, args, kwargs).get("dim", 0) % output.dim()
    parts = []
    for tensor in args[0]:
        part = tensor.detach().unsqueeze(dim)
        trace.set(part, [plane.unsqueeze(dim) for plane in trace.planes(tensor)])
        parts.append(part)
    trace.set(output, join(trace, parts, dim, output.shape))
    return output


def _pad(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Padding brings ids of its own, which whatever it meets ties to channels."""
    output = func(*args, **kwargs)
    amounts = list(args[1])
    numbers = (
        trace.pads if trace.pads is not None and list(map(int, trace.pads)) == list(map(int, amounts)) else amounts
    )
    planes = []
    for plane in trace.planes(args[0]):
        for place in range(len(amounts) // 2):
            dim = plane.dim() - 1 - place
            before, after = amounts[2 * place], amounts[2 * place + 1]
            if dim not in varying(plane):
                small = core(plane, [dim])
                plane = small.narrow(dim, 0, 1).expand([*plane.shape[:dim], output.size(dim), *plane.shape[dim + 1 :]])
                continue
            if before < 0 or after < 0:
                plane = freeze(trace.ids, plane, [dim], trace.site("cropping by padding"))
                plane = plane.narrow(dim, 0, 1).expand([*plane.shape[:dim], output.size(dim), *plane.shape[dim + 1 :]])
                continue
            pieces = []
            for amount, number in ((before, numbers[2 * place]), (after, numbers[2 * place + 1])):
                ids = trace.ids.new(amount)
                trace.count(ids.numpy(), number, "pad")
                view = [1] * plane.dim()
                view[dim] = amount
                pieces.append(ids.view(view).expand([*plane.shape[:dim], amount, *plane.shape[dim + 1 :]]))
            plane = compact(torch.cat([pieces[0], plane, pieces[1]], dim))
        planes.append(plane)
    trace.set(output, planes)
    return output


def _embedding(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    weight, index = args[0], args[1]
    planes = []
    for plane in trace.planes(weight):
        left = drop(trace.ids, plane, [0], trace.site("rows looked up by number"))
        if left is None:
            trace.ids.pin(plane, trace.site("rows looked up by number"))
        else:
            planes.append(left.reshape([1] * index.dim() + list(weight.shape[1:])).expand(output.shape))
    trace.set(output, planes)
    return output


def _index(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """x[indices]: indexed dimensions keep their length, the others go through."""
    tensor, indices = args[0], args[1]
    if any(isinstance(i, Tensor) and (i.dtype == torch.bool or trace.planes(i)) for i in indices):
        return _unknown(trace, func, args, kwargs)
    dims = [d for d, i in enumerate(indices) if i is not None]
    output = func(*args, **kwargs)
    planes = []
    for plane in trace.planes(tensor):
        plane = freeze(trace.ids, plane, dims, trace.site("elements looked up by number"))
        planes.append(compact(func(plane, indices)))
    trace.set(output, planes)
    return output


def _index_select(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    dim = args[1] % args[0].dim()
    reason = trace.site("elements looked up by number")
    planes = [freeze(trace.ids, plane, [dim], reason) for plane in trace.planes(args[0])]
    trace.set(output, [_resized(core(plane), output.shape) for plane in planes])
    return output


def _unknown(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    name = plain_name(func)
    for tensor in _flat(args, kwargs):
        if isinstance(tensor, Tensor):
            for plane in trace.planes(tensor):
                trace.unknown.setdefault(name, trace.site(name))
                trace.ids.pin(plane, f"operation {trace.site(name)} is not known")
    return output


def _as_strided(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """as_strided_ to the tensor's own shape only changes its memory order."""
    before, planes = args[0].shape, trace.planes(args[0])
    if torch.Size(args[1]) != before:
        return _unknown(trace, func, args, kwargs)
    output = func(*args, **kwargs)
    trace.set(output, planes)
    return output


def _roi(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """roi_align and roi_pool: (batch, channels, ...) and boxes -> (boxes, channels, ...)."""
    output = func(*args, **kwargs)
    reason = trace.site(plain_name(func))
    for plane in trace.planes(args[1]):
        trace.ids.pin(plane, reason)
    for result in output if isinstance(output, tuple | list) else [output]:
        ids = [vector(trace.ids, plane, 1, reason) for plane in trace.planes(args[0])]
        trace.set(result, [i.view(1, -1, *[1] * (result.dim() - 2)).expand(result.shape) for i in ids])
    return output


RULES: dict[str, Callable] = {
    **dict.fromkeys(_LAYOUT, _layout),
    **dict.fromkeys(_REDUCE, _reduce),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_LIKE, _like),
    **{name: functools.partial(_spatial, count) for name, count in _SPATIAL.items()},
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "chunk", "unsafe_chunk"), _split),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
                     "cudnn_batch_norm", "_batch_norm_no_update"), norms.batch_norm),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), norms.layer_norm),
    **dict.fromkeys(("roi_align", "roi_pool", "ps_roi_align"), _roi),
    "as_strided_": _as_strided,
    **dict.fromkeys(("triu", "tril"), _triangle),
    "glu": _glu,
    **dict.fromkeys(("select", "unbind"), _select),
    "cat": _cat,
    "stack": _stack,
    "constant_pad_nd": _pad,
    "embedding": _embedding,
    "index": _index,
    "index_select": _index_select,
    "native_group_norm": norms.group_norm,
    "convolution": contract.convolution,
    "mm": contract.matrix,
    "bmm": contract.matrix,
    "addmm": contract.added_matrix,
    "baddbmm": contract.added_matrix,
    "addbmm": _unknown,
    "_scaled_dot_product_flash_attention_for_cpu": contract.attention,
    "_scaled_dot_product_attention_math": contract.attention,
    "_scaled_dot_product_fused_attention_overrideable": contract.attention,
    "_scaled_dot_product_flash_attention": contract.attention,
    "_scaled_dot_product_efficient_attention": contract.attention,
}  # fmt: skip
