"""Granularity `expert`: whole experts of mixtures go, of every layer as many, those that matter least."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...analysis.calibration.hooks import stream
from ...artifact.edits import set_attribute
from ...core.errors import InputError, described
from ...core.tensors.copying import copy_module
from ...core.tensors.modules import get_module, tensor_of
from ...core.types import Loaded, call, main_output
from ...model.libraries.experts import is_experts, projections
from ...model.libraries.geometry import Fact, Field, Geometry, facts_of, replaced, unlike
from ...training.context import Context, StepResult
from ..importance.expert_importance import RoutedOutputs
from ..options import PruneOptions
from ..tables import EXPERT_IMPORTANCES
from .one_width import record_settings

#: a permutation of experts may change no output by more than this share of the largest
_TOLERANCE = 1e-3


class Mixture(NamedTuple):
    """Experts of one layer, with all that is numbered like them.

    Attributes:
        name: of the module that holds them.
        experts: how many there are.
        tensors: (name, dimension) of what has an entry an expert: their stacks and biases, the router's rows.
        attributes: (module, name) of integers that count them.
    """

    name: str
    experts: int
    tensors: list[tuple[str, int]]
    attributes: list[tuple[str, str]]


class Mixtures(NamedTuple):
    """All mixtures of a model, what its configuration decides, and the setting that counts experts."""

    layers: list[Mixture]
    geometry: Geometry
    setting: Field


def find_mixtures(loaded: Loaded) -> Mixtures:
    """The mixtures of a transformers model: what grows with the setting that counts its experts.

    Raises:
        InputError: if there are none, or no one setting counts them.
    """
    names = [name for name, module in loaded.module.named_modules() if is_experts(module)]
    if not names or loaded.source.get("kind") != "hf":
        raise InputError(
            f"model {loaded.name!r} holds no experts as stacks of matrices, as mixtures of transformers do; "
            "give --granularity channel or block"
        )
    into, _ = projections(get_module(loaded.module, names[0]))
    if into not in get_module(loaded.module, names[0])._parameters:
        raise InputError(f"{names[0]}: its experts are quantized; prune first, and quantize what is left")
    geometry = Geometry(loaded.module)
    stacks = [Fact("size", f"{name}.{projections(get_module(loaded.module, name))[1]}", "", 0) for name in names]
    settings = {setting for fact in stacks for setting in geometry.deciders.get(fact, ())}
    if len(settings) != 1:
        raise InputError(f"model {loaded.name!r}: no one setting of its configuration counts its experts")
    (setting,) = settings
    return Mixtures([_mixture(loaded.module, geometry, setting, name) for name in names], geometry, setting)


def _mixture(root: nn.Module, geometry: Geometry, setting: Field, name: str) -> Mixture:
    around = name.rpartition(".")[0]
    own = [fact for fact in geometry.fields[setting] if fact.path.startswith(f"{around}.") or fact.path == around]
    tensors = [(fact.path, fact.place) for fact in own if fact.kind == "size"]
    attributes = [(fact.path, fact.name) for fact in own if fact.kind == "attribute"]
    counts = {_shape(root, path)[dim] for path, dim in tensors}
    if len(counts) != 1:
        raise InputError(f"{name}: what is numbered like its experts has {sorted(counts)} entries")
    return Mixture(name, counts.pop(), tensors, attributes)


def _shape(root: nn.Module, path: str) -> torch.Size:
    owner, _, name = path.rpartition(".")
    return tensor_of(get_module(root, owner), name).shape


def kept_experts(mixtures: Mixtures, options: PruneOptions) -> int:
    """How many experts a layer keeps.

    Raises:
        InputError: if that is all of them.
    """
    count = mixtures.layers[0].experts
    kept = max(round(count * (1 - (options.ratio or 0.0))), 1)
    if kept == count:
        raise InputError(f"ratio {options.ratio:g} of {count} experts a layer is less than one; nothing would go")
    return kept


def prune_experts(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Remove experts, in every layer those of least importance.

    Raises:
        InputError: if the model has no experts that can go, or does not run with so few.
    """
    mixtures = find_mixtures(loaded)
    kept = kept_experts(mixtures, options)
    difference = _check_numbering(loaded, mixtures)
    routed = _routed(loaded, mixtures, options, context)
    importance = EXPERT_IMPORTANCES.load(options.expert_importance)
    rows = []
    for mixture in mixtures.layers:
        scores = importance(routed[mixture.name]).double()
        chosen = scores.argsort(descending=True, stable=True)[:kept].sort().values
        frequencies = routed[mixture.name].counts / max(routed[mixture.name].tokens, 1)
        loaded.edits += _take(loaded.module, mixture, chosen)
        gone = [number for number in range(mixture.experts) if number not in chosen.tolist()]
        rows.append({
            "layer": mixture.name, "experts": mixture.experts, "kept": kept, "removed": ", ".join(map(str, gone)),
            "tokens of these": f"{float(frequencies[gone].sum() / frequencies.sum()):.1%}",
        })  # fmt: skip
    settings = replaced(mixtures.geometry.settings, {mixtures.setting: kept})
    facts = mixtures.geometry.build(settings)
    record_settings(loaded, facts, settings)
    if problem := unlike(facts, facts_of(loaded.module)):
        raise InputError(f"model {loaded.name!r}: no configuration describes it with fewer experts: {problem}")
    try:
        call(loaded.module, loaded.example)
    except Exception as error:  # the model's own code, which may choose more experts than are left
        raise InputError(
            f"the model does not run with {kept} experts a layer ({described(error)}); remove fewer"
        ) from None
    notes = [] if context.data else ["importance was measured on the example input alone; give --data"]
    counts = {
        "experts_before": sum(one.experts for one in mixtures.layers),
        "experts_after": kept * len(mixtures.layers),
    }
    return StepResult(loaded, {**counts, "largest_difference": difference}, notes, {"experts": rows})


def _routed(loaded: Loaded, mixtures: Mixtures, options: PruneOptions, context: Context) -> dict[str, RoutedOutputs]:
    """What every layer's experts give for the calibration data, or for the example alone."""
    found = {mixture.name: RoutedOutputs() for mixture in mixtures.layers}
    data = context.data
    batches = data.calibration(options.samples, seed=context.seed) if data else [loaded.example]
    stream(loaded.module, batches, {name: one.look for name, one in found.items()}, context.device)
    if silent := [name for name, one in found.items() if not one.tokens]:
        raise InputError(f"{silent[0]}: the data does not reach its experts")
    return found


@torch.no_grad()
def _check_numbering(loaded: Loaded, mixtures: Mixtures) -> float:
    """The largest change of the outputs when experts are numbered otherwise: none, if all that counts them is known.

    Raises:
        InputError: if the outputs change.
    """
    wanted = main_output(call(loaded.module, loaded.example))
    turned = copy_module(loaded.module)
    for mixture in mixtures.layers:
        _take(turned, mixture, torch.arange(mixture.experts).flip(0))
    difference = float((main_output(call(turned, loaded.example)) - wanted).abs().max())
    if not difference <= _TOLERANCE * float(wanted.abs().max()):
        raise InputError(
            f"model {loaded.name!r}: numbering its experts otherwise changes the outputs by {difference:.2g}, so more "
            "than their weights and the router's depends on their numbers"
        )
    return difference


@torch.no_grad()
def _take(root: nn.Module, mixture: Mixture, chosen: Tensor) -> list[dict[str, Any]]:
    """Keep the chosen experts of a layer, in that order; returns the edits."""
    shapes: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for path, dim in mixture.tensors:
        owner, _, name = path.rpartition(".")
        module = get_module(root, owner)
        old = tensor_of(module, name)
        value = old.data.index_select(dim, chosen.to(old.device))
        setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)
        shapes[owner][name] = list(value.shape)
    attributes: dict[str, dict[str, int]] = defaultdict(dict)
    for owner, name in mixture.attributes:
        set_attribute(get_module(root, owner), name, len(chosen))
        attributes[owner][name] = len(chosen)
    return [
        {"op": "resize", "target": owner, "shapes": shapes.get(owner, {}), "attributes": attributes.get(owner, {})}
        for owner in sorted({*shapes, *attributes})
    ]
