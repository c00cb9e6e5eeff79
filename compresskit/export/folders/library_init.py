"""Which layers transformers initializes by hand as it opens a folder: they need a weight there, whatever is packed."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from ...core.errors import InputError

_Packed = TypeVar("_Packed")


def loadable(model: nn.Module, packed: Mapping[str, _Packed]) -> dict[str, _Packed]:
    """Those of the packed layers that transformers opens again; the others stay floats.

    Raises:
        InputError: if there are none.
    """
    by_hand = hand_initialized(model, packed)
    if len(by_hand) == len(packed):
        raise InputError(
            f"transformers reads `weight` of every packed layer ({by_hand[0]} ...) as it opens a "
            f"folder of a {type(model).__name__}, where it lies packed; export it as hf or onnx"
        )
    return {name: found for name, found in packed.items() if name not in by_hand}


def put_in_place(model: nn.Module, packed: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Give layers packed tensors in the place of their weights."""
    for name, tensors in packed.items():
        layer = model.get_submodule(name)
        layer._parameters.pop("weight")
        for key, tensor in tensors.items():
            layer.register_buffer(key, tensor)


def hand_initialized(model: nn.Module, names: Collection[str]) -> list[str]:
    """Layers, of those whose weights a folder packs, that `_init_weights` of the library reaches for by name.

    `from_pretrained` calls it for modules of which it misses a tensor, as it does where a weight lies packed, and some
    families' reads `weight` of the layers inside a module without asking whether it is there.

    Args:
        model: a model of the library, with all its weights; it is not changed.
        names: of its layers that are to be packed.
    """
    if not hasattr(model, "_init_weights"):
        return []
    tensors = [*model.parameters(), *model.buffers()]
    skeleton: Any = copy.deepcopy(model, {id(tensor): _as_meta(tensor) for tensor in tensors})
    layers = {id(layer): name for name, layer in skeleton.named_modules() if name in names}
    weights = {key: skeleton.get_submodule(name)._parameters.pop("weight") for key, name in layers.items()}
    found: list[str] = []
    for module in skeleton.modules():
        while (layer := _missed(skeleton, module)) is not None and id(layer) in weights:
            layer._parameters["weight"] = weights.pop(id(layer))
            found.append(layers[id(layer)])
    return found


def _as_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _missed(model: Any, module: nn.Module) -> Any:
    """The layer whose weight was missed while a module was initialized, or None."""
    try:
        with torch.no_grad():
            model._init_weights(module)
    except AttributeError as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        return None if trace is None else trace.tb_frame.f_locals.get("self")
    except Exception:  # what it computes from values that a skeleton lacks is no matter here
        return None
    return None
