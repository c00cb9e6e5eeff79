"""Multi-head attention whose heads are free: their number and width need not multiply to the embedding's width.

`nn.MultiheadAttention` computes its head width from the embedding, so it cannot lose a head alone. The edit
`free_heads` puts
`HeadAttention` in its place: the same parameters under the same names, the same outputs, and a head geometry of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...artifact.edits import leave_fused_paths
from ...core.errors import InputError
from ...core.manifest.edit_records import EditRecord, reads
from ...core.tensors.modules import get_module, set_module


class HeadAttention(nn.Module):
    """Takes over the parameters of an nn.MultiheadAttention.

    Args:
        source: the module whose place this takes; without added key and value biases.
    """

    def __init__(self, source: nn.MultiheadAttention):
        super().__init__()
        self.embed_dim = source.embed_dim
        self.num_heads = source.num_heads
        self.head_dim = source.head_dim
        self.scale = float(source.head_dim) ** -0.5  # stays when heads get narrower
        self.dropout = source.dropout
        self.batch_first = source.batch_first
        self.in_proj_weight: Tensor | None
        self.q_proj_weight: Tensor
        self.k_proj_weight: Tensor
        self.v_proj_weight: Tensor
        self.in_proj_bias: Tensor | None
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
            self.register_parameter(name, getattr(source, name))
        self.out_proj = source.out_proj
        # transformer layers read this before they take a fused path that assumes the usual head width
        self._qkv_same_embed_dim = False

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Same arguments and results as nn.MultiheadAttention's forward."""
        unbatched = query.dim() == 2
        if unbatched:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._heads(x) for x in self._projected(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-1, -2)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            output = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if unbatched else weights
        else:
            causal = is_causal and mask is None
            output = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=self.scale)
        output = self.out_proj(output.transpose(1, 2).flatten(2))
        if not self.batch_first:
            output = output.transpose(0, 1)
        return (output.squeeze(0 if self.batch_first else 1) if unbatched else output), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        biases: Sequence[Tensor | None] = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weights: Sequence[Tensor]
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return [F.linear(*parts) for parts in zip((query, key, value), weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads * width) -> (batch, heads, tokens, width)."""
        return x.view(x.size(0), x.size(1), self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """One additive mask that broadcasts to (batch, heads, queries, keys)."""
        mask = None
        if attn_mask is not None:
            mask = _additive(attn_mask, q.dtype)
            if mask.dim() == 3:  # (batch * heads, queries, keys)
                mask = mask.view(q.size(0), -1, *mask.shape[1:])
        if padding is not None:
            padding = _additive(padding, q.dtype).view(-1, 1, 1, k.size(2))
            mask = padding if mask is None else mask + padding
        return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def free_heads(root: nn.Module) -> list[dict[str, Any]]:
    """Put HeadAttention in the place of every nn.MultiheadAttention; returns the edits."""
    edits = []
    for path, module in list(root.named_modules()):
        if type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn and path:
            edit = {"op": "free_heads", "target": path}
            replay(root, edit)
            edits.append(edit)
    return edits + leave_fused_paths(root, [edit["target"] for edit in edits])


class FreeHeadsRecord(EditRecord):
    """Nothing but the target."""


@reads(FreeHeadsRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: free_heads, target}: an nn.MultiheadAttention becomes a HeadAttention.

    Raises:
        InputError: if the target is something else.
    """
    module = get_module(root, edit["target"])
    if not isinstance(module, nn.MultiheadAttention):
        raise InputError(f"is a {type(module).__name__}, not a MultiheadAttention")
    set_module(root, edit["target"], HeadAttention(module).train(module.training))
