"""A head that shares its weight with the embedding, given one of its own."""

from __future__ import annotations

import torch
from torch import nn

from ...artifact.config_edits import replay_untie
from ...core.tensors.modules import get_module
from ...core.types import Loaded


@torch.no_grad()
def untie(loaded: Loaded, name: str) -> None:
    """Give a layer a copy of the weight that it shares, and say so in the edits."""
    shared = get_module(loaded.module, name).get_parameter("weight")
    edit = {"op": "untie", "target": name}
    replay_untie(loaded.module, edit)
    get_module(loaded.module, name).get_parameter("weight").copy_(shared)
    loaded.edits.append(edit)


def shared_heads(root: nn.Module) -> dict[str, str]:
    """Linear layers whose weight is an embedding's, which the model's configuration says: name -> the embedding's."""
    if not getattr(getattr(root, "config", None), "tie_word_embeddings", False):
        return {}
    modules = dict(root.named_modules())
    tables = {id(one.weight): name for name, one in modules.items() if type(one) is nn.Embedding}
    return {
        name: tables[id(one._parameters["weight"])]
        for name, one in modules.items()
        if type(one) is nn.Linear and id(one._parameters["weight"]) in tables
    }
