"""Small mixtures of experts with random weights, whose experts are stacks of matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded

#: family -> what its configuration calls the number of experts, and settings of its own; GptOss turns its stacks
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("num_local_experts", {}),
    "Qwen3Moe": ("num_experts", {"moe_intermediate_size": 24}),
    "GptOss": ("num_local_experts", {"layer_types": ["full_attention"] * 2}),
}
_COMMON = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts_per_tok": 2,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def mixture(family: str, experts: int = 4) -> Any:
    """A mixture with weights large enough that its experts differ."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    number, own = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**_COMMON, **own, **{number: experts})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


def mixture_folder(folder: Path, family: str, experts: int = 4) -> Loaded:
    """The same, written as a folder and loaded from it."""
    mixture(family, experts).save_pretrained(folder)
    return load_model(f"hf:{folder}", inputs=["input_ids=6:int64:64"])
