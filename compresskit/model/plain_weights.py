"""Weights that training code computes anew in every forward, turned into plain ones.

Weight norm and spectral norm (hooks and parametrizations), `torch.nn.utils.prune` masks and any other
parametrization leave a module without a parameter of its own. Every technique needs one, so they are folded into
plain parameters as an edit right after loading.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import tree_leaves

from ..core.errors import InputError, described
from ..core.manifest.edit_records import EditRecord, Name, Shape, reads
from ..core.tensors.modules import get_module
from ..core.tensors.randomness import manual_seed
from ..core.types import Inputs, call

_HOOK_SUFFIXES = ("orig", "mask", "g", "v", "u")  # of the tensors that hooks keep beside the computed one
_KINDS = {
    "WeightNorm": "weight norm",
    "_WeightNorm": "weight norm",
    "SpectralNorm": "spectral norm",
    "_SpectralNorm": "spectral norm",
    "_Orthogonal": "orthogonal parametrization",
}
_SHOWN = 6  # layers listed in a note


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor of a module that is computed from other tensors of that module.

    Attributes:
        name: its name in the module, e.g. `weight`.
        kind: what computes it, for notes.
        originals: the tensors it is computed from.
        is_buffer: it stands for a buffer, not for a parameter.
        compute: returns its present value.
        strip: removes what computes it, the originals included; the name is free afterwards.
    """

    name: str
    kind: str
    originals: tuple[Tensor, ...]
    is_buffer: bool
    compute: Callable[[], Tensor]
    strip: Callable[[], None]


def computed_tensors(module: nn.Module) -> list[ComputedTensor]:
    """The computed tensors of one module (not of its children), masks first: they may feed a norm."""
    if isinstance(module, torch.jit.ScriptModule):
        return []
    hooks = [found for key, hook in module._forward_pre_hooks.items() if (found := _of_hook(module, key, hook))]
    hooks.sort(key=lambda tensor: not tensor.kind.startswith("pruning"))
    names = list(_chains(module)) if parametrize.is_parametrized(module) else []
    return hooks + [_of_parametrization(module, name) for name in names]


def _of_hook(module: nn.Module, key: int, hook: Any) -> ComputedTensor | None:
    """A hook that sets a tensor before every forward: torch's own, and others of the same form."""
    if isinstance(hook, prune.BasePruningMethod):
        name, kind = hook._tensor_name, "pruning mask"
        compute = partial(hook.apply_mask, module)
    elif isinstance(getattr(hook, "name", None), str) and callable(getattr(hook, "compute_weight", None)):
        name = hook.name
        kind = _KINDS.get(type(hook).__name__, type(hook).__name__)
        arguments = {"do_power_iteration": False} if isinstance(hook, SpectralNorm) else {}
        compute = partial(hook.compute_weight, module, **arguments)
    else:
        return None
    own = {**module._parameters, **module._buffers}
    originals = {full: own.get(full) for full in (f"{name}_{suffix}" for suffix in _HOOK_SUFFIXES)}
    kept = {full: tensor for full, tensor in originals.items() if tensor is not None}

    def strip() -> None:
        del module._forward_pre_hooks[key]
        module._forward_pre_hooks_with_kwargs.pop(key, None)
        for table in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
            for number, entry in list(table.items()):
                if getattr(getattr(entry, "hook", entry), "fn", None) is hook:
                    del table[number]
        for full in kept:
            delattr(module, full)
        vars(module).pop(name, None)

    return ComputedTensor(name, kind, tuple(kept.values()), False, compute, strip)


def _chains(module: nn.Module) -> nn.ModuleDict:
    """The parametrizations of a parametrized module: name of a tensor -> the chain that computes it."""
    chains = module.get_submodule("parametrizations")
    if not isinstance(chains, nn.ModuleDict):
        raise TypeError(f"parametrizations of {type(module).__name__} are a {type(chains).__name__}")
    return chains


def _of_parametrization(module: nn.Module, name: str) -> ComputedTensor:
    chain = _chains(module)[name]
    held: list[tuple[str, Tensor | None]] = [*chain._parameters.items(), *chain._buffers.items()]
    originals = tuple(tensor for full, tensor in held if tensor is not None and full.startswith("original"))
    kinds = [_KINDS.get(type(part).__name__, type(part).__name__) for part in chain.children()]

    def strip() -> None:
        plain_class = parametrize.type_before_parametrizations(module)
        del _chains(module)[name]
        if not len(_chains(module)):
            del module.parametrizations
            module.__class__ = plain_class

    is_buffer = not any(isinstance(tensor, nn.Parameter) for tensor in originals)
    return ComputedTensor(name, " of ".join(kinds), originals, is_buffer, lambda: getattr(module, name), strip)


def fold_checked(root: nn.Module, example: Inputs | None) -> tuple[list[dict[str, Any]], list[str]]:
    """`fold`, undone where the model does not compute the same afterwards.

    Args:
        root: in eval mode.
        example: inputs to compare the outputs on; None compares nothing.
    """
    if not any(computed_tensors(module) for module in root.modules()):
        return [], []
    saved = [(module, type(module), _shallow(vars(module))) for module in root.modules()]
    try:
        before = None if example is None else _outputs(root, example)
    except Exception:  # a model that does not run on its example is refused later, by what needs it to run
        before = None
    edits, notes = fold(root)
    if example is None or before is None or not edits:
        return edits, notes
    reason = "its output changes"
    try:
        if _close(before, _outputs(root, example)):
            return edits, notes
    except Exception as error:
        reason = f"it no longer runs ({described(error)})"
    for module, kind, attributes in saved:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(attributes)
    return [], [f"weights that are computed in every forward stay so: without what computes them {reason}"]


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


@torch.no_grad()
def _outputs(root: nn.Module, example: Inputs) -> list[Tensor]:
    """The floating-point tensors of a model's output."""
    with torch.random.fork_rng(devices=[]):
        manual_seed(0)
        leaves = tree_leaves(call(root, example))
    return [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _close(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether outputs agree to the rounding of float32 arithmetic, or of their own type where that is coarser."""
    tolerances = [max(1e-4, 8 * torch.finfo(one.dtype).eps) * float(one.abs().max()) for one in before if one.numel()]
    pairs = [pair for pair in zip(before, after, strict=True) if pair[0].numel()]
    return all(
        torch.allclose(one, other, rtol=0, atol=atol, equal_nan=True)
        for (one, other), atol in zip(pairs, tolerances, strict=True)
    )


def fold(root: nn.Module) -> tuple[list[dict[str, Any]], list[str]]:
    """Replace every computed tensor of a module by a plain parameter of its present value, in place.

    Tensors computed in the same way from the same originals become one shared parameter.

    Args:
        root: in eval mode, on any device; its outputs stay the same.
    Returns:
        The edits that do the same to a freshly built module, and one note a kind of computation.
    """
    shared: dict[tuple, nn.Parameter] = {}
    edits: list[dict[str, Any]] = []
    folded: dict[str, list[str]] = {}
    notes: list[str] = []
    for path, module in list(root.named_modules()):
        if "parametrizations" in path.split("."):
            continue
        shapes = {}
        try:
            values = {tensor.name: _constant(tensor) for tensor in computed_tensors(module)}
        except InputError as error:
            notes.append(f"{path or 'the model'}: {error}; it is left as it is")
            continue
        while tensors := computed_tensors(module):
            tensor = tensors[0]
            # a mask folded first may change what the next one is computed from
            value = values[tensor.name] = _constant(tensor)
            sources = (tensor.kind, *map(id, tensor.originals))
            known = shared.get(sources)
            placed = _put(module, tensor, known if known is not None and torch.equal(known, value) else value)
            if isinstance(placed, nn.Parameter):
                shared.setdefault(sources, placed)
            shapes[tensor.name] = list(value.shape)
            folded.setdefault(tensor.kind, []).append(f"{path}.{tensor.name}" if path else tensor.name)
        if shapes:
            edits.append({"op": "plain_weights", "target": path, "shapes": shapes})
    for kind, names in folded.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        notes.insert(0, f"{kind} is folded into plain weights: {', '.join(names[:_SHOWN])}{more}")
    return edits, notes


class PlainWeightsRecord(EditRecord):
    """Shapes of the tensors that become plain."""

    shapes: dict[Name, Shape]


@reads(PlainWeightsRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, shapes: {tensor: [ints]}}: computed tensors of a module become plain ones of these shapes."""
    module = get_module(root, edit["target"])
    for name, shape in edit["shapes"].items():
        tensor = next((found for found in computed_tensors(module) if found.name == name), None)
        if tensor is None:
            raise InputError(f"{name} is not computed from other tensors")
        first = tensor.originals[0]
        _put(module, tensor, torch.empty([int(size) for size in shape], dtype=first.dtype, device=first.device))


@torch.no_grad()
def _constant(tensor: ComputedTensor) -> Tensor:
    """The present value; refused where a second computation gives another one, or none."""
    try:
        first, second = (tensor.compute().detach().clone() for _ in range(2))
    except Exception as error:
        raise InputError(f"{tensor.kind} of {tensor.name} cannot be computed ({described(error)})") from error
    if not tensor.originals:
        raise InputError(f"{tensor.kind} of {tensor.name} keeps no tensors of its own")
    if not first.is_meta and not torch.equal(first, second):
        raise InputError(f"{tensor.kind} of {tensor.name} draws at random or changes with every call")
    return first


def _put(module: nn.Module, tensor: ComputedTensor, value: Tensor) -> Tensor:
    """Strip what computes a tensor and register a value in its place, before the module's other tensors."""
    needs_grad = any(original.requires_grad for original in tensor.originals)
    tensor.strip()
    # into the tables themselves: while other tensors of a module are parametrized, its class still intercepts names
    if tensor.is_buffer:
        module._buffers[tensor.name] = value
        return value
    if not isinstance(value, nn.Parameter):
        value = nn.Parameter(value, needs_grad and (value.is_floating_point() or value.is_complex()))
    others = dict(module._parameters)
    module._parameters.clear()
    module._parameters.update({tensor.name: value, **others})
    if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
        module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]
    return value
