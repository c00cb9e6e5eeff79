"""Granularity `block`: whole residual blocks or transformer layers go, least important first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...analysis.calibration.hooks import run_watched
from ...analysis.measure.macs import count_macs
from ...analysis.measure.work import figure_of
from ...artifact.skips import passed, replay, skip_edit
from ...core.costs import cost_of
from ...core.errors import InputError
from ...core.tensors.modules import get_module, match_names
from ...core.types import Inputs, Loaded, to_device
from ...training.context import Context, StepResult
from ..importance.block_importance import BlockEvidence, check_labels
from ..options import PruneOptions
from ..tables import BLOCK_IMPORTANCES
from .one_width import geometry_of, is_uniform, renumber, settings_without

#: examples that blocks are judged on, and how many at once
_MOST_SAMPLES, _BATCH = 256, 64
#: what a criterion measures, for reports
_MEASURES = {"output": "output change", "influence": "influence", "loss": "loss without it"}


class _Passage(NamedTuple):
    """One call of a block: the edit that leaves the block out, and the tensors that it takes and gives."""

    edit: dict[str, Any]
    entered: Tensor
    left: Tensor


def skippable_blocks(module: nn.Module, example: Inputs, lists: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Layers of a sequence whose output has the shape and type of their input.

    Of nested ones the outermost counts, but a stage that only runs its blocks one after another is not one itself.
    A layer that is called several times is one only if the same edit leaves every call out. These are not the blocks
    that are calibrated: those include stems, heads and parts that change the shape, and a MobileNetV2 block that does
    is one of them, while the layers of one shape inside it can go by themselves.

    Args:
        module: the model.
        example: inputs that it accepts.
        lists: paths of lists whose entries are the blocks; where none of them can go, or without any, blocks are found
            as above.
    Returns:
        name -> the edit that leaves the block out.
    """
    calls: dict[str, _Passage | None] = {}

    def look(name: str, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        block = get_module(module, name)
        edit = skip_edit(name, block, args, kwargs, output)
        passage = None if edit is None else _Passage(edit, *passed(edit, block, args, kwargs, output))
        earlier = calls.get(name)
        if name in calls and (passage is None or earlier is None or earlier.edit != edit):
            passage = None
        calls[name] = passage

    run_watched(module, example, look, _steps(module))
    found = {name: passage for name, passage in calls.items() if passage is not None}
    order = [name for name, _ in module.named_modules() if name in found]
    counted = [name for name in order if name.rpartition(".")[0] in lists]
    return {name: found[name].edit for name in _outermost(counted) or _blocks_among(order, found)}


def _steps(module: nn.Module) -> list[str]:
    """Members of sequences that hold layers and weights."""
    return [
        f"{path}.{name}" if path else name
        for path, parent in module.named_modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
        for name, child in parent.named_children()
        if not isinstance(child, torch.jit.ScriptModule) and _holds_layers(child)
    ]


def _holds_layers(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None and next(module.children(), None) is not None


def _blocks_among(names: list[str], found: dict[str, _Passage]) -> list[str]:
    """The outermost of the names, stages replaced by the blocks inside them."""
    blocks: list[str] = []
    for name in _outermost(names):
        inside = [other for other in names if other.startswith(f"{name}.")]
        steps = [found[name] for name in _outermost(inside)]
        gives = [found[name].entered, *(step.left for step in steps)]
        takes = [*(step.entered for step in steps), found[name].left]
        is_stage = bool(steps) and all(left is entered for left, entered in zip(gives, takes, strict=True))
        blocks += _blocks_among(inside, found) if is_stage else [name]
    return blocks


def _holds_any(block: str, layers: Sequence[str]) -> bool:
    """Whether a block is, holds, or is held by one of the layers."""
    return any(f"{block}.".startswith(f"{layer}.") or layer.startswith(f"{block}.") for layer in layers)


def _outermost(names: list[str]) -> list[str]:
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def removable_blocks(loaded: Loaded, protect: list[str], lists: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Blocks that may go, by name, each with the edit that leaves it out.

    Args:
        loaded: the model.
        protect: name patterns of layers that stay, with the block that each is in and the blocks in each.
        lists: paths of lists of layers whose length a configuration holds.
    Raises:
        InputError: if there are none, or a pattern matches nothing.
    """
    blocks = skippable_blocks(loaded.module, loaded.example, lists)
    names = [name for name, _ in loaded.module.named_modules() if name]
    stay = match_names(protect, names) if protect else []
    found, blocks = blocks, {name: edit for name, edit in blocks.items() if not _holds_any(name, stay)}
    if found and not blocks:
        raise InputError(f"model {loaded.name!r}: all of its {len(found)} removable block(s) are protected")
    if not blocks:
        raise InputError(f"model {loaded.name!r}: no block passes its input's shape through, so none can go")
    return blocks


def prune_blocks(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Remove blocks one at a time: always the least important one, measured again after each.

    Raises:
        InputError: if the model has no removable blocks.
    """
    geometry, notes = geometry_of(loaded)
    lists = geometry.counted_lists() if geometry is not None and is_uniform(loaded, options) else ()
    blocks = removable_blocks(loaded, options.protect, lists)
    judge, evidence = BLOCK_IMPORTANCES.load(options.block_importance), _evidence(loaded, options, context)
    measure = _MEASURES.get(options.block_importance, "importance")
    before, rows, removed = macs(loaded), [], 0
    whole = {name: figure_of(name, loaded) or 0.0 for name in options.targets()}
    limits = {name: amount.of(whole[name]) for name, amount in options.targets().items()}
    wanted = max(1, round(len(blocks) * options.ratio)) if options.ratio else len(blocks)
    total = len(blocks)
    needed: dict[str, str] = {}  # why a block must stay
    undescribed: dict[str, str] = {}  # why no configuration describes the model without a block
    settings: dict[str, Any] | None = None
    while blocks and removed < wanted and not _small_enough(loaded, limits):
        found = judge(blocks, evidence)
        needed |= {name: reason for name, reason in found.items() if isinstance(reason, str)}
        changes = {name: change for name, change in found.items() if not isinstance(change, str)}
        blocks = {name: blocks[name] for name in changes}
        if not blocks:
            break
        name = min(changes, key=changes.__getitem__)
        edit = blocks.pop(name)
        if geometry is not None:
            try:
                settings = settings_without(loaded.module, geometry, name)
            except InputError as error:
                if is_uniform(loaded, options):
                    undescribed[name] = str(error)
                    continue
                geometry, settings = None, None
                notes.append(f"from_pretrained will not load the result: {error}")
        replay(loaded.module, edit)
        loaded.edits.append(edit)
        removed += 1
        kept = f"{macs(loaded) / before:.1%}"
        rows.append({"block": name, measure: round(changes[name], 4), "MACs kept": kept})
        context.log(f"removed {name}: {options.block_importance} {changes[name]:.4f}")
    renumber(loaded, geometry, settings)
    facts = {
        "blocks": total,
        "blocks_removed": removed,
        "macs_before": before,
        "macs_after": macs(loaded),
        "macs_kept": macs(loaded) / before,
    }
    notes += [f"{name} stays: the model does not run without it ({reason})" for name, reason in needed.items()]
    notes += [
        f"{name} stays: no configuration describes the model without it ({reason}); --widths free takes it all the same"
        for name, reason in undescribed.items()
    ]
    if options.ratio and total * options.ratio < 0.5 and removed:
        notes.append(f"ratio {options.ratio:g} of {total} block(s) is less than one; one went")
    if not removed and (needed or undescribed):
        raise InputError(f"model {loaded.name!r}: no block can go: {notes[0]}")
    if context.data is None:
        notes.append("importance was measured on the example input alone; give --data for a real measurement")
    for name, limit in limits.items():
        left = figure_of(name, loaded) or 0.0
        if left > limit:
            asked = f"{cost_of(name).noun}: asked to keep {limit / whole[name]:.1%}, kept {left / whole[name]:.1%}"
            notes.append(f"{asked} with every removable block gone")
    return StepResult(loaded, facts, notes, {"removed blocks": rows})


def _small_enough(loaded: Loaded, limits: Mapping[str, float]) -> bool:
    return bool(limits) and all((figure_of(name, loaded) or 0.0) <= limit for name, limit in limits.items())


def macs(loaded: Loaded) -> int:
    """Multiply-accumulates of one run on the example input."""
    return count_macs(loaded.module, loaded.example).total


def _evidence(loaded: Loaded, options: PruneOptions, context: Context) -> BlockEvidence:
    """The model with what its blocks are judged on: the data, or its example input alone."""
    evidence = BlockEvidence(loaded.module, [loaded.example], loss=context.loss)
    if context.data is not None:
        batches = context.data.batches("train", batch_size=_BATCH, shuffle=True, seed=context.seed)
        pairs = [to_device(pair, context.device) for pair in batches.first(min(options.samples, _MOST_SAMPLES))]
        evidence.batches, evidence.targets = ([pair[side] for pair in pairs] for side in (0, 1))
    if BLOCK_IMPORTANCES.needs(options.block_importance) == "labels":
        check_labels(options.block_importance, evidence.targets)
    evidence.keep_reference()
    return evidence
