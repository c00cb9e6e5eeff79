"""Causal language models of transformers as graphs that take the keys and values of past tokens, and return all."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.errors import InputError, require
from ...core.types import Inputs
from ...model.text_inputs import text_inputs_of
from .dynamic_axes import Axes

_PAST, _PRESENT, _TRACED_PAST = "past_key_values", "present", 5
_OF_A_LAYER = re.compile(rf"^{_PAST}_(\d+)_(key|value)$")
_LENGTH_AXIS = 2  # of keys and values, (batch, heads, length, width)


class WithPast(nn.Module):
    """A causal language model whose cache is tensors: `past_key_values.N.key` in, `present.N.key` out.

    Names are those of Hugging Face Optimum's exports, which runtimes of language models read.

    Args:
        model: a causal language model of transformers.
    """

    @classmethod
    def of(cls, model: nn.Module, names: list[str]) -> WithPast:
        """The model in a wrapper whose forward has a parameter for each input, as torch.export needs it."""

        def forward(self: WithPast, **inputs: Tensor) -> dict[str, Tensor]:
            return WithPast.forward(self, **inputs)

        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature reads
            [inspect.Parameter(name, kinds) for name in ("self", *names)]
        )
        return type(cls.__name__, (cls,), {"forward": forward, "__module__": __name__})(model).eval()

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        takes = inspect.signature(model.forward).parameters
        self._argument = "cache" if "cache" in takes else _PAST  # its name before transformers 5.20

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **past: Tensor) -> dict[str, Tensor]:
        library = require("transformers", "hf")
        names = list(past)
        pairs = [(past[key], past[value]) for key, value in zip(names[::2], names[1::2], strict=True)]
        cache = library.DynamicCache(pairs)
        given = {self._argument: cache, "use_cache": True}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **given)
        present: dict[str, Tensor] = {}
        for index, layer in enumerate(outputs[self._argument].layers):
            present |= {f"{_PRESENT}.{index}.key": layer.keys, f"{_PRESENT}.{index}.value": layer.values}
        return {"logits": outputs["logits"], **present}


@torch.no_grad()
def past_example(module: nn.Module, example: Inputs) -> dict[str, Tensor]:
    """Inputs of `WithPast`: two sequences of ids behind a few past tokens.

    Raises:
        InputError: if the model is no causal language model of transformers, or keeps something else than keys and
            values.
    """
    reads = text_inputs_of(module)
    if reads is None or reads.kind != "causal" or not isinstance(example, Mapping) or "input_ids" not in example:
        raise InputError("with_past: only causal language models of transformers have keys and values of past tokens")
    ids = example["input_ids"].expand(2, -1)
    outputs = module(input_ids=ids[:, :_TRACED_PAST], use_cache=True)
    cache = outputs["cache" if "cache" in outputs else _PAST] if {"cache", _PAST} & outputs.keys() else None
    layers = getattr(cache, "layers", None)
    if not layers or not all(isinstance(getattr(layer, "keys", None), Tensor) for layer in layers):
        raise InputError(f"with_past: this model keeps no keys and values a layer ({type(cache).__name__})")
    past: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        past |= {f"{_PAST}_{index}_key": layer.keys.clone(), f"{_PAST}_{index}_value": layer.values.clone()}
    length = ids.shape[1] + next(iter(past.values())).shape[_LENGTH_AXIS]
    return {"input_ids": ids, "attention_mask": torch.ones(2, length, dtype=torch.int64), **past}


def past_axes(example: Mapping[str, Tensor]) -> list[Axes]:
    """The free dimensions of each input of `WithPast`."""
    lengths = {"input_ids": {1: "length"}, "attention_mask": {1: "total_length"}}
    return [{0: "batch", **lengths.get(name, {_LENGTH_AXIS: "past_length"})} for name in example]


@contextmanager
def without_cache(module: nn.Module) -> Iterator[None]:
    """A transformers model without its cache of keys and values, which no graph returns, until the context ends."""
    configs = {id(config): config for layer in module.modules() if (config := getattr(layer, "config", None))}
    caching = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    for one in caching:
        one.use_cache = False
    try:
        yield
    finally:
        for one in caching:
            one.use_cache = True


def completed(inputs: Inputs, example: Inputs) -> Inputs:
    """Token ids with what a graph reads beside them: a mask that hides nothing, and no past tokens.

    Args:
        inputs: a batch.
        example: inputs of all names that the graph has.
    """
    if not isinstance(example, Mapping) or not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        return inputs
    ids = inputs["input_ids"]
    missing: dict[str, Any] = {}
    for name, tensor in example.items():
        if name in inputs:
            continue
        if name == "attention_mask":
            missing[name] = torch.ones_like(ids)
        elif name.startswith(_PAST):
            missing[name] = tensor.new_zeros(ids.shape[0], tensor.shape[1], 0, tensor.shape[3])
    merged = {**inputs, **missing}
    return {name: merged[name] for name in (*example, *(name for name in merged if name not in example))}


def without_past(example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same ids as the start of a text."""
    return dict(cast(Mapping[str, Tensor], completed({"input_ids": example["input_ids"]}, example)))


def next_inputs(outputs: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Inputs of the next step: each sequence's likeliest token behind all that came before.

    Args:
        outputs: what `WithPast` or its graph returned.
        mask: of all tokens so far, (batch, total length).
    """
    ids = outputs["logits"][:, -1:].argmax(-1)
    past = {_undotted(name): tensor for name, tensor in outputs.items() if name != "logits"}
    return {"input_ids": ids, "attention_mask": torch.cat([mask, torch.ones_like(ids)], 1), **past}


def dotted(name: str) -> str:
    """The name of past keys or values in a file, where a program can have underscores only."""
    return _OF_A_LAYER.sub(rf"{_PAST}.\1.\2", name)


def _undotted(name: str) -> str:
    return name.replace(_PRESENT, _PAST, 1).replace(".", "_")
