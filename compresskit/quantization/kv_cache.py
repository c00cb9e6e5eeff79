"""Keys and values that generation keeps, in few bits: rounded as they enter the cache, and read so by attention.

What is kept is simulated: the rounded numbers stand in float. Values, and keys of 8 bits, have one range a token and
head. Keys of fewer bits have one a channel over 32 tokens, as some of their channels are large in all tokens; keys of a
group that is not full yet stay as they are.

Source: Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024, section 3.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from compresskit.core.errors import InputError
from compresskit.core.manifest.edit_records import EditRecord, reads
from compresskit.core.types import Loaded
from compresskit.model.text_inputs import is_causal

from .formats import uniform

#: tokens over which a channel of keys has one range
KEY_GROUP = 32
_BITS = "_compresskit_cache_bits"


def round_along(states: Tensor, bits: int, dim: int) -> Tensor:
    """Quantize and dequantize with one range for all entries along a dimension."""
    wide = states.float()
    low, high = wide.amin(dim, keepdim=True), wide.amax(dim, keepdim=True)
    return uniform.round_trip(wide, *uniform.range_to_scale(low, high, bits, symmetric=False), bits).to(states.dtype)


def round_keys(keys: Tensor, bits: int, first: int = 0) -> Tensor:
    """Keys with those of full groups from a position on rounded by channel.

    Args:
        keys: (batch, heads, tokens, width).
        bits: of a key.
        first: a multiple of KEY_GROUP; keys before it are rounded already.
    """
    last = keys.shape[2] // KEY_GROUP * KEY_GROUP
    if last <= first:
        return keys
    groups = keys[:, :, first:last].unflatten(2, (-1, KEY_GROUP))
    rounded = round_along(groups, bits, 3).flatten(2, 3)
    return torch.cat([keys[:, :, :first], rounded, keys[:, :, last:]], 2)


@cache
def _cache_class() -> type:
    from transformers import DynamicCache

    class RoundedCache(DynamicCache):
        """A cache whose keys and values are rounded."""

        def __init__(self, config: Any, bits: int):
            super().__init__(config=config)
            self.bits = bits

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            """Take in the keys and values of some tokens, (batch, heads, tokens, width); returns all of the layer's."""
            by_channel = self.bits < 8 and not getattr(self.layers[layer_idx], "is_sliding", False)
            before = self.get_seq_length(layer_idx) // KEY_GROUP * KEY_GROUP
            keys = key_states if by_channel else round_along(key_states, self.bits, -1)
            values = round_along(value_states, self.bits, -1)
            keys, values = super().update(keys, values, layer_idx, *args, **kwargs)
            if by_channel:
                layer: Any = self.layers[layer_idx]
                layer.keys = keys = round_keys(keys, self.bits, before)
            return keys, values

    return RoundedCache


def cache_argument(module: nn.Module) -> str:
    """What a model calls its cache, among the arguments of its forward and in what it returns."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


def _give_cache(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    """Put a rounded cache in the place of none, or of an empty one, before a forward."""
    bits, name = getattr(module, _BITS, None), cache_argument(module)
    given = kwargs.get(name)
    if bits is None or module.training:
        return None
    rounded = _cache_class()
    if given is not None and (isinstance(given, rounded) or given.get_seq_length()):
        return None
    return args, {**kwargs, name: rounded(module.config, bits), "use_cache": True}


def quantize_cache(root: nn.Module, bits: int) -> None:
    """Let a causal transformers model keep keys and values in few bits from now on.

    Raises:
        InputError: if it keeps none.
    """
    if not is_causal(root):
        raise InputError("kv_bits: the model caches no keys and values; it is for causal transformers models")
    if not hasattr(root, _BITS):
        root.register_forward_pre_hook(_give_cache, with_kwargs=True)
    setattr(root, _BITS, bits)


@contextmanager
def float_cache(root: nn.Module) -> Iterator[bool]:
    """Inside, a model keeps keys and values as they are, as other runtimes do; tells whether it does otherwise not."""
    bits = getattr(root, _BITS, None)
    if bits is not None:
        setattr(root, _BITS, None)
    try:
        yield bits is not None
    finally:
        if bits is not None:
            setattr(root, _BITS, bits)


class CacheRecord(EditRecord):
    """Bits of keys and values."""

    bits: Annotated[int, Field(ge=2, le=8)]


@reads(CacheRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: kv_cache, target: "", bits}: keys and values are kept in few bits."""
    quantize_cache(root, edit["bits"])


def with_quantized_cache(loaded: Loaded, bits: int) -> dict[str, Any]:
    """Let a model keep keys and values in few bits, and record the edit; returns facts for the report."""
    edit = {"op": "kv_cache", "target": "", "bits": bits}
    replay(loaded.module, edit)
    loaded.edits.append(edit)
    return {"kv_bits": bits, **bytes_a_token(loaded, bits)}


def bytes_a_token(loaded: Loaded, bits: int) -> dict[str, float]:
    """Bytes that keys and values of one token take as floats, and in few bits with float16 scales and zero points."""
    cached: list[Tensor] = []
    with torch.no_grad(), float_cache(loaded.module):
        found = loaded.module(**dict(loaded.example), use_cache=True) if isinstance(loaded.example, dict) else None
    for layer in getattr(getattr(found, cache_argument(loaded.module), None), "layers", ()):
        cached += [one for one in (getattr(layer, "keys", None), getattr(layer, "values", None)) if one is not None]
    if not cached:
        return {}
    entries = [one[0].numel() / one.shape[2] for one in cached]
    heads = [one.shape[1] for one in cached]
    before = sum(count * one.element_size() for count, one in zip(entries, cached, strict=True))
    scales = [
        # by channel: two numbers for each of a group's channels, shared by its tokens; by token: two a head
        4 * count / KEY_GROUP if bits < 8 and place % 2 == 0 else 4 * of_heads
        for place, (count, of_heads) in enumerate(zip(entries, heads, strict=True))
    ]
    return {"kv_bytes_a_token_before": before, "kv_bytes_a_token": sum(entries) * bits / 8 + sum(scales)}
