"""Small transformers models with random weights, as folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded

TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
LLAMA = TEXT | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
BERT = TEXT | {"num_attention_heads": 4, "max_position_embeddings": 64, "num_labels": 3}


def tiny(folder: Path, kind: str = "Llama", dtype=torch.float32, *, shard: str = "1GB", **given) -> Loaded:
    """A small model of a kind, written as a folder and loaded from it."""
    transformers = pytest.importorskip("transformers")
    head = {"Llama": "ForCausalLM", "Gemma3": "ForCausalLM", "Bert": "ForSequenceClassification"}[kind]
    config = getattr(transformers, f"{kind}{'Text' if kind == 'Gemma3' else ''}Config")
    torch.manual_seed(0)
    settings = (BERT if kind == "Bert" else LLAMA) | given
    module = getattr(transformers, kind + head)(config(**settings)).to(dtype)
    module.save_pretrained(folder, max_shard_size=shard)
    return load_model(f"hf:{folder}", inputs=["input_ids=6:int64:64"])
