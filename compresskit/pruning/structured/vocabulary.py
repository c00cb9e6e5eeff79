"""Granularity `vocabulary`: tokens that the data does not use go, from embeddings, head and tokenizer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ...core.errors import InputError
from ...core.types import Loaded
from ...model.libraries.geometry import Field, Geometry, facts_of, replaced, unlike
from ...model.libraries.trimmed_tokenizer import (
    TOKENIZER,
    kept_tokens,
    read_tokenizer,
    renumbered,
    tokens_named,
    write_trimmed,
)
from ...model.text_inputs import text_inputs_of
from ...training.context import Context, StepResult
from .counted import Counted, counted_by, deciding, take
from .one_width import record_settings

_BATCH = 64
_AT_ONCE = 1 << 24  # tokens of a corpus


class Vocabulary(NamedTuple):
    """What has an entry for each token, and the setting that counts tokens."""

    counted: Counted
    geometry: Geometry
    setting: Field


def find_vocabulary(loaded: Loaded) -> Vocabulary:
    """The vocabulary of a transformers model.

    Raises:
        InputError: if the model is none of text, its tokenizer is of a form that cannot be rewritten, or no one setting
            counts its tokens.
    """
    inputs = text_inputs_of(loaded.module) if loaded.source.get("kind") == "hf" else None
    if inputs is None or inputs.kind == "masked":
        what = "hides tokens at random, so that data names all of them" if inputs else "takes no text"
        raise InputError(f"model {loaded.name!r} {what}; granularity 'vocabulary' is for transformers models of text")
    if TOKENIZER not in loaded.companions:
        raise InputError(f"model {loaded.name!r} has no {TOKENIZER} beside it, which has to be rewritten")
    read_tokenizer(loaded.companions[TOKENIZER])
    embedding: Any = loaded.module.get_input_embeddings()  # type: ignore[operator]
    names = [name for name, module in loaded.module.named_modules() if module is embedding]
    geometry = Geometry(loaded.module)
    setting = deciding(geometry, [(f"{names[0]}.weight", 0)]) if names else None
    if setting is None:
        raise InputError(f"model {loaded.name!r}: no one setting of its configuration counts its tokens")
    return Vocabulary(counted_by(geometry, setting), geometry, setting)


def prune_vocabulary(loaded: Loaded, context: Context) -> StepResult:
    """Remove the tokens that no example of the data uses; the tokenizer is rewritten.

    Raises:
        InputError: without data, or if the model's vocabulary cannot be cut.
    """
    vocabulary = find_vocabulary(loaded)
    before = vocabulary.counted.count
    settings = vocabulary.geometry.settings
    used, seen = _tokens_of(context, before)
    named = {token for token in tokens_named(settings) if token < before}
    kept = [
        token for token in kept_tokens(read_tokenizer(loaded.companions[TOKENIZER]), used | named) if token < before
    ]
    if len(kept) == before:
        raise InputError(f"model {loaded.name!r}: the data uses all of its {before:,} tokens; nothing would go")
    loaded.edits += take(loaded.module, vocabulary.counted, torch.tensor(kept))
    places = {old: new for new, old in enumerate(kept)}
    settings = renumbered(replaced(settings, {vocabulary.setting: len(kept)}), places)
    facts = vocabulary.geometry.build(settings)
    record_settings(loaded, facts, settings)
    if problem := unlike(facts, facts_of(loaded.module)):
        raise InputError(f"model {loaded.name!r}: no configuration describes it with fewer tokens: {problem}")
    table = torch.zeros(before, dtype=torch.int64)
    table[torch.tensor(kept)] = torch.arange(len(kept))
    loaded.example = tree_map_only(Tensor, lambda one: _renumbered(one, table), loaded.example)
    loaded.companions = write_trimmed(loaded.companions, kept, context.needs_folder() / "tokenizer")
    counts = {"tokens_before": before, "tokens_after": len(kept), "tokens_used": len(used), "tokens_read": seen}
    note = "texts that are unlike the data's take more tokens now; what is no text of its alphabet may have none"
    return StepResult(loaded, counts, [note])


def _renumbered(values: Tensor, table: Tensor) -> Tensor:
    """Numbers of tokens as they are now; other tensors of an example (masks) hold zeros and ones, or floats."""
    if values.dtype != torch.int64 or not values.numel() or int(values.max()) < 2:
        return values
    return table[values.clamp(0, len(table) - 1)]


def _tokens_of(context: Context, size: int) -> tuple[set[int], int]:
    """Tokens of the texts behind all splits, or of their examples where these are no corpus; and how many were read."""
    data = context.needs_data("granularity 'vocabulary'")
    counts = torch.zeros(size, dtype=torch.int64)
    for ids in data.corpora():
        for start in range(0, len(ids), _AT_ONCE):
            counts += torch.from_numpy(np.bincount(ids[start : start + _AT_ONCE], minlength=size)[:size])
    for split in () if counts.any() else ("train", "val", "test"):
        for inputs, targets in data.batches(split, batch_size=_BATCH):
            for values in tree_leaves((inputs, targets)):
                if isinstance(values, Tensor) and values.dtype == torch.int64:
                    flat = values.flatten()
                    counts += torch.bincount(flat[(flat >= 0) & (flat < size)], minlength=size)
    return set(counts.nonzero().flatten().tolist()), int(counts.sum())
