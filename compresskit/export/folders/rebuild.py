"""A model as transformers itself builds it from its configuration, with our weights: what `save_pretrained` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from ...core.errors import InputError
from ...core.tensors.dtypes import model_dtype
from ...model.libraries.geometry import built, pattern_of, settings_of


def library_model(module: nn.Module, edits: Sequence[Mapping[str, Any]]) -> nn.Module:
    """The model that a module's configuration builds, with the module's weights, which it shares.

    Args:
        module: a transformers model whose layers are float.
        edits: what was done to it: normalizations that layers took up get statistics under which they add a bias only.
    Raises:
        InputError: if the configuration builds other tensors, naming layers that differ.
    """
    found = built(type(module).__name__, settings_of(module.config))
    tensors = dict(module.state_dict())
    _restore_norms(found, tensors, edits)
    tensors = _as_parametrized(found, _as_turned(found, module, tensors))
    problem = different_tensors({name: tuple(t.shape) for name, t in found.state_dict().items()}, tensors)
    if problem:
        raise InputError(problem)
    found.load_state_dict(tensors, assign=True)
    found.tie_weights()  # type: ignore[operator]
    config: Any = found.config
    config.dtype, config.architectures = model_dtype(module), [type(module).__name__]
    return found.eval()


def different_tensors(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> str:
    """Why tensors are not those that a configuration builds, naming layers; "" where they are."""
    first: tuple[str, tuple[int, ...]] | None = None
    for name, shape in wanted.items():
        own = tuple(tensors[name].shape) if name in tensors else None
        if own is None or own == shape:
            continue
        for other, tensor in tensors.items():
            if pattern_of(other) == pattern_of(name) and wanted.get(other) == shape and tuple(tensor.shape) != own:
                return (
                    f"layers have different widths ({name} is {list(own)}, {other} is {list(tensor.shape)}), and its "
                    "configuration has one number for them; prune with --widths uniform"
                )
        first = first or (name, own)
    if first is not None:
        name, size = first
        return f"{name} is {list(size)}, and {list(wanted[name])} as its configuration builds it"
    lacks, extra = [n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted]
    if lacks or extra:
        where = f"lacks {lacks[0]}" if lacks else f"has {extra[0]} besides"
        return f"it {where}, compared with what its configuration builds"
    return ""


def _as_turned(root: nn.Module, module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of linear layers, (out, in), that stand in the place of GPT-2's Conv1D, as that has them, (in, out)."""
    found = dict(tensors)
    own = dict(module.named_modules())
    for path, layer in root.named_modules():
        if type(layer).__name__ == "Conv1D" and isinstance(own.get(path), nn.Linear):
            found[f"{path}.weight"] = found[f"{path}.weight"].T.contiguous()
    return found


def _as_parametrized(root: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain weights as the tensors that a parametrization computes them from, where the built model has one."""
    found = dict(tensors)
    for path, module in root.named_modules():
        chains: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
        for name, chain in chains.items():
            plain = f"{path}.{name}"
            if plain not in found or len(chain) != 1 or not hasattr(chain[0], "right_inverse"):
                continue
            originals = chain[0].right_inverse(found.pop(plain))
            several = isinstance(originals, tuple | list)
            for number, value in enumerate(originals if several else [originals]):
                found[f"{path}.parametrizations.{name}.original{number if several else ''}"] = value
    return found


def _restore_norms(root: nn.Module, tensors: dict[str, Tensor], edits: Sequence[Mapping[str, Any]]) -> None:
    """Give normalizations that layers took up statistics under which they add the layer's new bias, if it had none."""
    built_names = set(root.state_dict())
    for edit in edits:
        if edit["op"] != "fold" or not isinstance(norm := root.get_submodule(edit["norm"]), _BatchNorm):
            continue
        bias = tensors[f"{edit['target']}.bias"]
        path, size = edit["norm"], norm.num_features
        has_bias = f"{edit['target']}.bias" in built_names
        tensors |= {
            f"{path}.weight": torch.ones(size, dtype=bias.dtype),
            f"{path}.bias": torch.zeros_like(bias) if has_bias else tensors.pop(f"{edit['target']}.bias"),
            f"{path}.running_mean": torch.zeros(size, dtype=bias.dtype),
            f"{path}.running_var": torch.full((size,), 1 - norm.eps, dtype=bias.dtype),
            f"{path}.num_batches_tracked": torch.zeros((), dtype=torch.int64),
        }
