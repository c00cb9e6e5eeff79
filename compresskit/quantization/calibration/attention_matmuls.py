"""Products of two activations, as attention computes them: what they read passes through a function first.

Such products are no layers with weights, so they are caught where a module calls them, in order: batched `matmul`,
`bmm`, `baddbmm`, `einsum` and scaled dot-product attention, written out so that its probabilities pass too. Of
nn.MultiheadAttention, whose projections are no layers either, also what those read.
"""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from compresskit.core.types import Inputs, call

from ...core.tensors.modules import eager_modules

Take = Callable[[Tensor], Tensor]


def attention(
    take: Take,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention whose four operands (query, key transposed, value, probabilities) pass `take`.

    Args:
        take: what every operand passes through.
        query, key, value: (..., heads, length, width).
        attn_mask: True (or 0) where a key counts, False (or -inf) where not; broadcasts to (..., length, keys).
        dropout_p, is_causal, scale, enable_gqa: as of torch's function of that name.
    Returns:
        (..., heads, length, value width).
    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. 1.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(repeats, -3) for part in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = take(query) @ take(key.transpose(-2, -1)) * factor
    # the lowest number in the place of -inf: a row without any key then has a mean and not 0 / 0
    lowest = torch.finfo(scores.dtype).min
    if is_causal:
        below = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~below, lowest)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, lowest)
    elif attn_mask is not None:
        scores = (scores + attn_mask).clamp(min=lowest)
    value = take(value)
    probabilities = F.dropout(scores.softmax(-1), dropout_p, training=dropout_p > 0)
    return take(probabilities) @ value


def _matmul(take: Take, first: Tensor, second: Tensor, **named: Any) -> Tensor:
    # a matrix of two dimensions is a weight, and that of a layer of another kind
    if first.dim() < 3 or second.dim() < 3:
        return torch.matmul(first, second, **named)
    return torch.matmul(take(first), take(second), **named)


def _baddbmm(take: Take, added: Tensor, batch1: Tensor, batch2: Tensor, **named: Any) -> Tensor:
    return torch.baddbmm(added, take(batch1), take(batch2), **named)


def _einsum(take: Take, equation: str, *operands: Any) -> Tensor:
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if len(tensors) != 2 or any(tensor.dim() < 3 for tensor in tensors):
        return torch.einsum(equation, *tensors)
    return torch.einsum(equation, *map(take, tensors))


def _linear(take: Take, values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(take(values), weight, bias)


#: functions that multiply activations, and what runs in their place
PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm), _matmul),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _baddbmm),
    torch.einsum: _einsum,
    F.scaled_dot_product_attention: attention,
}


@cache
def _without_override_check(function: types.FunctionType) -> types.FunctionType:
    """A composite function of torch that runs its body under a function mode, where the original hands itself over."""
    names = {**function.__globals__, "has_torch_function": lambda arguments: False}
    copied = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


class Products(TorchFunctionMode):
    """While active, what products of activations read passes through a function.

    Args:
        take: from an operand to what is computed with in its place.
        projects: tells whether linear maps that run now are MultiheadAttention's own, and count too.
    """

    def __init__(self, take: Take, projects: Callable[[], bool]):
        super().__init__()
        self.take, self.projects = take, projects

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _without_override_check(func)(*args, **kwargs)
        replacement = PRODUCTS.get(func)
        if func is F.linear and self.projects():
            replacement = _linear
        if replacement is None:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # modes of modules around this one do not see it again
            return replacement(self.take, *args, **kwargs)


def products_of(module: nn.Module, take: Take) -> Products:
    """The mode for one module's forward."""
    is_attention = isinstance(module, nn.MultiheadAttention)
    return Products(take, lambda: is_attention)


@torch.no_grad()
def count_operands(root: nn.Module, inputs: Inputs) -> dict[str, int]:
    """How many operands the products read that each module itself runs, by module name, in order of execution.

    A module that runs several times is counted once if it reads equally many each time; else it is left out.

    Args:
        root: the model.
        inputs: its example input.
    """
    stack: list[tuple[str, nn.Module, list[int]]] = []
    calls: dict[str, list[int]] = defaultdict(list)

    def take(values: Tensor) -> Tensor:
        stack[-1][2][0] += 1
        return values

    def enter(module: nn.Module, _args: tuple, name: str) -> None:
        stack.append((name, module, [0]))

    def leave(_module: nn.Module, _args: tuple, _output: Any) -> None:
        name, _, count = stack.pop()
        calls[name].append(count[0])

    with ExitStack() as hooks:
        for name, module in eager_modules(root):
            hooks.callback(module.register_forward_pre_hook(partial(enter, name=name)).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        root.eval()
        with Products(take, lambda: isinstance(stack[-1][1], nn.MultiheadAttention)):
            call(root, inputs)
    return {name: counts[0] for name, counts in calls.items() if counts[0] and len(set(counts)) == 1}
