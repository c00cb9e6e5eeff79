"""Granularity `block`: whole residual blocks or transformer layers go, least important first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.dtypes import as_real
from ..core.edit_records import EditRecord, Flag, reads
from ..core.errors import InputError, described
from ..core.flops import count_macs
from ..core.modules import get_module, match_names, set_module
from ..core.types import Context, Inputs, Loaded, StepResult, call, main_output
from .evidence import calibration
from .options import PruneOptions


class PassThrough(nn.Module):
    """Returns its first argument, whatever else it is called with.

    Args:
        as_tuple: wrap the result in a one-element tuple, for layers whose callers unpack one.
        block: what it stands for; plain attributes that callers read of it (`layer.attention_type`) stay.
    """

    def __init__(self, as_tuple: bool, block: nn.Module | None = None):
        super().__init__()
        own = vars(self).keys()
        vars(self).update({key: value for key, value in vars(block or self).items() if key not in own})
        self.as_tuple = as_tuple

    def forward(self, x: Any = None, *_: Any, hidden_states: Any = None, **__: Any) -> Any:
        """The first argument (or `hidden_states`)."""
        x = hidden_states if x is None else x
        return (x,) if self.as_tuple else x


class SkipRecord(EditRecord):
    """Whether the block's callers unpack a tuple."""

    as_tuple: Flag


@reads(SkipRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: skip, target, as_tuple: 0 | 1}: a block passes its first argument through."""
    block = get_module(root, edit["target"])
    set_module(root, edit["target"], PassThrough(bool(edit["as_tuple"]), block))


@torch.no_grad()
def find_blocks(module: nn.Module, example: Inputs) -> dict[str, bool]:
    """Layers of a sequence whose output has the shape and type of their input.

    Returns:
        name -> whether the block returns a tuple; outermost blocks only.
    """
    found: dict[str, bool] = {}
    handles = []
    for path, parent in module.named_modules():
        if not isinstance(parent, nn.Sequential | nn.ModuleList):
            continue
        for name, child in parent.named_children():
            if isinstance(child, torch.jit.ScriptModule):
                continue
            full = f"{path}.{name}" if path else name
            if any(True for _ in child.parameters()) and any(True for _ in child.children()):
                handles.append(child.register_forward_hook(_shape_watcher(full, found), with_kwargs=True))
    try:
        call(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: kind for name, kind in found.items() if not any(name.startswith(f"{other}.") for other in found)}


def _shape_watcher(name: str, found: dict[str, bool]):
    def look(_module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        x = args[0] if args else kwargs.get("hidden_states")
        first = output[0] if isinstance(output, tuple) and len(output) == 1 else output
        if isinstance(x, Tensor) and isinstance(first, Tensor) and x.shape == first.shape and x.dtype == first.dtype:
            found[name] = isinstance(output, tuple)
        else:
            found.pop(name, None)

    return look


def removable_blocks(loaded: Loaded, protect: list[str]) -> dict[str, bool]:
    """Blocks that may go, by name, each with whether it returns a tuple.

    Args:
        loaded: the model.
        protect: name patterns of blocks that stay.
    Raises:
        InputError: if there are none, or a pattern matches nothing.
    """
    blocks = find_blocks(loaded.module, loaded.example)
    names = [name for name, _ in loaded.module.named_modules() if name]
    for name in match_names(protect, names) if protect else []:
        blocks.pop(name, None)
    if not blocks:
        raise InputError(f"model {loaded.name!r}: no block passes its input's shape through, so none can go")
    return blocks


def prune_blocks(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Remove blocks one at a time: always the one whose removal changes the outputs least, measured anew after each.

    Raises:
        InputError: if the model has no removable blocks.
    """
    blocks = removable_blocks(loaded, options.protect)
    batches = [loaded.example] if context.data is None else calibration(context, min(options.samples, 256), "block")
    reference = _outputs(loaded.module, batches)
    before, rows, removed = macs(loaded), [], 0
    wanted = round(len(blocks) * options.ratio) if options.ratio else len(blocks)
    total, needed = len(blocks), {}
    while blocks and removed < wanted and not _small_enough(loaded, options, before):
        found = {name: _change_without(loaded.module, name, kind, batches, reference) for name, kind in blocks.items()}
        needed |= {name: reason for name, reason in found.items() if isinstance(reason, str)}
        changes = {name: change for name, change in found.items() if name not in needed}
        blocks = {name: blocks[name] for name in changes}
        if not blocks:
            break
        name = min(changes, key=changes.get)
        edit = {"op": "skip", "target": name, "as_tuple": int(blocks.pop(name))}
        replay(loaded.module, edit)
        loaded.edits.append(edit)
        removed += 1
        rows.append(
            {"block": name, "output change": round(changes[name], 4), "MACs kept": f"{macs(loaded) / before:.1%}"}
        )
        context.log(f"removed {name}: outputs change by {changes[name]:.4f}")
    kept = macs(loaded) / before
    facts = {
        "blocks": total,
        "blocks_removed": removed,
        "macs_before": before,
        "macs_after": macs(loaded),
        "macs_kept": kept,
    }
    notes = [f"{name} stays: the model does not run without it ({reason})" for name, reason in needed.items()]
    if not removed and needed:
        raise InputError(f"model {loaded.name!r}: no block can go: {notes[0]}")
    if context.data is None:
        notes.append("importance was measured on the example input alone; give --data for a real measurement")
    if options.target_macs is not None and kept > options.target_macs:
        notes.append(f"MACs: asked to keep {options.target_macs:.1%}, kept {kept:.1%} with every removable block gone")
    return StepResult(loaded, facts, notes, {"removed blocks": rows})


def _small_enough(loaded: Loaded, options: PruneOptions, before: int) -> bool:
    if options.target_macs is not None:
        return macs(loaded) <= options.target_macs * before
    return False


def macs(loaded: Loaded) -> int:
    """Multiply-accumulates of one run on the example input."""
    return count_macs(loaded.module, loaded.example).total


@torch.no_grad()
def _outputs(module: nn.Module, batches: Sequence[Inputs]) -> list[Tensor]:
    return [as_real(main_output(call(module, inputs))).float() for inputs in batches]


def _change_without(
    module: nn.Module, name: str, as_tuple: bool, batches: Sequence[Inputs], reference: list[Tensor]
) -> float | str:
    """Relative squared change of the outputs when one block is skipped, or why it cannot be."""
    block = get_module(module, name)
    set_module(module, name, PassThrough(as_tuple, block))
    try:
        outputs = _outputs(module, batches)
    except Exception as error:  # the model's own code reads what only the block has
        return described(error)
    finally:
        set_module(module, name, block)
    if any(a.shape != b.shape for a, b in zip(outputs, reference, strict=True)):
        return "the outputs take another shape"
    gap = sum(float((a - b).square().sum()) for a, b in zip(outputs, reference, strict=True))
    return gap / max(sum(float(b.square().sum()) for b in reference), 1e-12)
