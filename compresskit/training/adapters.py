"""Low-rank adapters of linear layers, trained in the place of all weights, and merged into them at the end.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, eq. 3; by the library peft.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..core.errors import InputError, require
from ..core.tensors.dtypes import FLOATS
from ..core.tensors.modules import get_module, set_module
from ..core.tensors.randomness import manual_seed
from ..core.types import Loaded

_NAME = "recovery"


def adaptable(loaded: Loaded) -> list[str]:
    """Linear layers that take adapters: of float weights, which no other layer shares and no zeros have to stay in."""
    uses = Counter(
        id(tensor)
        for _, module in loaded.module.named_modules(remove_duplicate=False)
        for tensor in module._parameters.values()
    )
    return [
        name
        for name, layer in loaded.module.named_modules()
        if name
        and type(layer) is nn.Linear
        and layer.weight.dtype in FLOATS
        and uses[id(layer.weight)] == 1
        and loaded.storage.get(f"{name}.weight") != "bitmap"
    ]


@contextmanager
def adapters(loaded: Loaded, rank: int, seed: int) -> Iterator[int]:
    """Inside, only adapters of a model's linear layers are trained; behind, they are part of the layers' weights.

    Args:
        loaded: the model, changed in place.
        rank: of each adapter; their sum is scaled by two.
        seed: of the adapters' first values.
    Yields:
        how many parameters are trained.
    Raises:
        InputError: if no layer takes one, or peft is not installed.
    """
    peft = require("peft", "peft")
    root, names = loaded.module, adaptable(loaded)
    if not names:
        raise InputError(
            f"recover lora: model {loaded.name!r} has no linear layers of float weights to adapt (layers of zeros that "
            "stay, and quantized ones, take none); leave lora out"
        )
    trained_before = {name for name, parameter in root.named_parameters() if parameter.requires_grad}
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
    with torch.random.fork_rng():
        manual_seed(seed)
        peft.inject_adapter_in_model(config, root, adapter_name=_NAME)
    try:
        yield sum(parameter.numel() for parameter in root.parameters() if parameter.requires_grad)
    finally:
        for name in names:
            layer: Any = get_module(root, name)
            layer.merge(adapter_names=[_NAME])
            set_module(root, name, layer.get_base_layer())
        for name, parameter in root.named_parameters():
            parameter.requires_grad_(name in trained_before)
