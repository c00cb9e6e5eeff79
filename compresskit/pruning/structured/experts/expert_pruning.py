"""Granularity `expert`: whole experts of mixtures go, of every layer as many, those that matter least."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ....analysis.calibration.hooks import stream
from ....core.errors import InputError, described
from ....core.tensors.copying import copy_module
from ....core.tensors.modules import get_module
from ....core.types import Loaded, call, main_output
from ....model.libraries.experts import is_experts, projections
from ....model.libraries.geometry import Field, Geometry, facts_of, replaced, unlike
from ....training.context import Context, StepResult
from ...importance.expert_importance import RoutedOutputs
from ...options import PruneOptions
from ...tables import EXPERT_IMPORTANCES
from ..counted import Counted, counted_by, deciding, take
from ..one_width import record_settings

#: a permutation of experts may change no output by more than this share of the largest
_TOLERANCE = 1e-3


class Mixture(NamedTuple):
    """Experts of one layer.

    Attributes:
        name: of the module that holds them.
        counted: all that is numbered like them: their stacks and biases, the router's rows.
    """

    name: str
    counted: Counted


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
    stacks = [(f"{name}.{projections(get_module(loaded.module, name))[1]}", 0) for name in names]
    setting = deciding(geometry, stacks)
    if setting is None:
        raise InputError(f"model {loaded.name!r}: no one setting of its configuration counts its experts")
    layers = [Mixture(name, counted_by(geometry, setting, name.rpartition(".")[0])) for name in names]
    return Mixtures(layers, geometry, setting)


def kept_experts(mixtures: Mixtures, options: PruneOptions) -> int:
    """How many experts a layer keeps.

    Raises:
        InputError: if that is all of them.
    """
    count = mixtures.layers[0].counted.count
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
        loaded.edits += take(loaded.module, mixture.counted, chosen)
        gone = [number for number in range(mixture.counted.count) if number not in chosen.tolist()]
        rows.append({
            "layer": mixture.name, "experts": mixture.counted.count, "kept": kept, "removed": ", ".join(map(str, gone)),
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
        "experts_before": sum(one.counted.count for one in mixtures.layers),
        "experts_after": kept * len(mixtures.layers),
    }
    return StepResult(loaded, {**counts, "largest_difference": difference}, notes, {"experts": rows})


def _routed(loaded: Loaded, mixtures: Mixtures, options: PruneOptions, context: Context) -> dict[str, RoutedOutputs]:
    """What every layer's experts give for the calibration data, or for the example alone."""
    found = {mixture.name: RoutedOutputs() for mixture in mixtures.layers}
    batches = context.calibration_batches(options.samples) if context.data else [loaded.example]
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
        take(turned, mixture.counted, torch.arange(mixture.counted.count).flip(0))
    difference = float((main_output(call(turned, loaded.example)) - wanted).abs().max())
    if not difference <= _TOLERANCE * float(wanted.abs().max()):
        raise InputError(
            f"model {loaded.name!r}: numbering its experts otherwise changes the outputs by {difference:.2g}, so more "
            "than their weights and the router's depends on their numbers"
        )
    return difference
