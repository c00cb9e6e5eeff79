"""Block by block through a changed model: what is tunable in a block is fitted to what the float model's block gives.

Inputs of a block come from the changed model, all earlier blocks being reconstructed already; targets are the float
model's own outputs of the block on the same examples. No labels are read.

Source: Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021,
section 3.2 and algorithm 1; here for any change that keeps a block's output, by plain gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...core.reporting.phases import phase
from ...core.tensors.devices import device_of
from ...core.tensors.dtypes import widened
from ...core.tensors.modules import evaluating
from ...core.tensors.randomness import manual_seed
from ...core.types import Inputs, main_output
from ..answering_layers import unaligned_layers
from ..answers import Answer, answer_of
from ..calibration.block_walk.activation_cache import ActivationCache
from ..calibration.block_walk.block_step import Step
from ..calibration.block_walk.blocks import Block, modules_of, run_block
from ..calibration.block_walk.streaming import walk
from .block_checkpoints import BlockCheckpoints
from .fitting import Group, Outcome, fit, variance

#: the block that all blocks are together
_WHOLE = Block(("",), (), "model", (), ())
#: all blocks at once move by this share of it. ResNet-20 at half its MACs, 600 steps from 15,872 images, held-out error
#: 0.104 before: 0.089 at a quarter, 0.087 at a half, 0.162 at the whole
_MODEL_LR_SHARE = 0.4
#: activations that are held in memory; more of them wait on the disk
_HELD_BYTES = 4 << 30
#: outputs of the original model that are kept while all blocks are tuned at once
_KNOWN_BYTES = 1 << 30
#: batches from which the variance of its output is taken
_OF_UNIT = 16

#: (block) -> what is tuned in it, with learning rates
Tunable = Callable[[Block], list[Group]]
#: (block, the float model's output) -> what the changed model's output is compared with
Target = Callable[[Block, Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """How blocks are reconstructed.

    Attributes:
        iterations: gradient steps a block, one batch each.
        seed: of the order of batches.
        log: takes lines of progress.
        folder: keeps what was tuned in each block, for a run that goes on after a kill; None keeps nothing.
        joint_iterations: gradient steps of all blocks at once, after those of single blocks.
    """

    iterations: int = 300
    seed: int = 0
    log: Callable[[str], None] = lambda line: None
    folder: Path | None = None
    joint_iterations: int = 0


def reconstruct_blocks(
    whole: nn.Module,
    changed: nn.Module,
    blocks: Sequence[Block],
    batches: Sequence[Inputs],
    tunable: Tunable,
    settings: Settings,
    target: Target = lambda block, output: output,
    joint_batches: Sequence[Inputs] = (),
) -> dict[str, Outcome]:
    """Fit the blocks of a changed model to the float model's, one after the other, in place; in the end all together.

    A block whose output has another shape than its target, or is not nearer to it on held-out examples afterwards,
    keeps its weights.

    Args:
        whole: the float model; stays as it is.
        changed: the changed model, with modules of the same names as the blocks'.
        blocks: as `find_blocks` finds them in the float model.
        batches: examples, in batches of the size that a step takes.
        tunable: what is tuned in a block; a block without is only run.
        settings: how.
        target: what outputs are compared with, where the changed model's are narrower than the float model's.
        joint_batches: examples for steps of all blocks at once; none leave them out.
    Returns:
        block name -> relative squared errors of its output before and after.
    """
    found: dict[str, Outcome] = {}
    generator = torch.Generator().manual_seed(settings.seed)
    device = device_of(changed)
    devices = [device] if device.type == "cuda" else []
    joint = joint_batches if settings.joint_iterations else ()
    with evaluating(whole, changed):  # before parameters are frozen, which tell the layers that answer
        unaligned = unaligned_layers(whole, batches[0]) if batches else set()
        answer = answer_of(whole, changed, joint) if joint else None
    if joint and answer is None:
        settings.log("what the whole model answers cannot be compared; its blocks are not tuned at once")
    with (
        torch.random.fork_rng(devices=devices), evaluating(whole, changed), _frozen(whole, changed),
        phase("reconstruct", len(blocks)) as advance,
    ):  # fmt: skip
        manual_seed(settings.seed)
        way = {"iterations": settings.iterations, "seed": settings.seed, "blocks": [one.name for one in blocks]}
        done = BlockCheckpoints.of(settings.folder, changed, {**way, "batches": len(batches)}, generator)
        cache = ActivationCache(limit_bytes=_HELD_BYTES)
        shared = _shared(changed, blocks)
        for number, step in enumerate(walk(changed, blocks, batches, reference=whole, cache=cache), 1):
            advance(step.block.name)
            groups = _without(shared, tunable(step.block))
            if not groups or not unaligned.isdisjoint(step.block.layers):
                continue
            if (restored := done.restore(step.block.name, groups)) is not None:
                found[step.block.name] = restored
                settings.log(f"{step.block.name} ({number} of {len(blocks)}) was reconstructed before")
                continue
            outcome = _fit_block(step, groups, target, settings, generator)
            if outcome is not None:
                found[step.block.name] = outcome
                settings.log(f"reconstructing {step.block.name} ({number} of {len(blocks)}): {outcome}")
                done.save(step.block.name, groups, outcome)
        if answer is not None and (groups := tunable(_WHOLE)):
            outcome = found[_WHOLE.name] = _fit_model(whole, changed, joint, answer, groups, settings, generator)
            settings.log(f"reconstructing {_WHOLE.name}: {outcome}")
    return found


def _fit_block(
    step: Step, groups: Sequence[Group], target: Target, settings: Settings, generator: torch.Generator
) -> Outcome | None:
    """Fit one block; None where its output cannot be compared with the float model's."""
    if step.reference_outputs is None:
        raise TypeError("the walk has no reference model")
    inputs, outputs = step.inputs, step.reference_outputs
    if len(outputs) != len(inputs):
        return None

    @torch.no_grad()
    def wanted(number: int) -> Tensor:
        with outputs.cache.loaded(outputs.parts[number]):  # afterwards it may be emptied again
            return widened(target(step.block, main_output(outputs.parts[number]))).clone()

    unit = variance(wanted(number) for number in range(len(outputs)))

    def output(number: int) -> Tensor:
        with inputs.cache.loaded(inputs.parts[number]):
            args, kwargs = tree_map_only(Tensor, torch.clone, inputs.parts[number])
        return widened(main_output(run_block(step.root, step.block, args, kwargs)))

    with torch.no_grad():
        if output(0).shape != wanted(0).shape:
            return None
    return _fit(lambda number: (output(number) - wanted(number)).square().mean() / unit, len(outputs), groups,
                settings, generator)  # fmt: skip


def _fit_model(
    whole: nn.Module,
    changed: nn.Module,
    batches: Sequence[Inputs],
    answer: Answer,
    groups: Sequence[Group],
    settings: Settings,
    generator: torch.Generator,
) -> Outcome:
    """Fit all blocks at once to the model's own answers."""
    known: dict[int, Tensor] = {}
    known_bytes = 0

    @torch.no_grad()
    def wanted(number: int) -> Tensor:
        nonlocal known_bytes
        if number in known:
            return known[number]
        output = answer(whole, batches[number])
        if known_bytes < _KNOWN_BYTES:
            known[number], known_bytes = output, known_bytes + output.nbytes
        return output

    unit = variance(wanted(number) for number in range(max(len(batches) - _OF_UNIT, 0), len(batches)))

    def error(number: int) -> Tensor:
        return (answer(changed, batches[number]) - wanted(number)).square().mean() / unit

    slower = [replace(group, lr=_MODEL_LR_SHARE * group.lr) for group in groups]
    return _fit(error, len(batches), slower, replace(settings, iterations=settings.joint_iterations), generator)


def _fit(
    error: Callable[[int], Tensor],
    batches: int,
    groups: Sequence[Group],
    settings: Settings,
    generator: torch.Generator,
) -> Outcome:
    groups = _without((), groups)
    with _tuned(groups), torch.enable_grad():
        return fit(error, batches, groups, iterations=settings.iterations, generator=generator)


def _shared(root: nn.Module, blocks: Sequence[Block]) -> set[int]:
    """Ids of weights that several blocks hold, as of a tied head: what is well for one of them moves the others."""
    held = Counter(
        place for block in blocks
        for place in {id(own) for _, module in modules_of(root, block) for own in module.parameters(recurse=False)}
    )  # fmt: skip
    return {place for place, count in held.items() if count > 1}


def _without(left_out: Collection[int], groups: Sequence[Group]) -> list[Group]:
    """The groups that hold something, each tensor in the first of them alone, and those of some ids in none."""
    seen = set(left_out)
    found = []
    for group in groups:
        own = [tensor for tensor in group.tensors if id(tensor) not in seen]
        seen.update(map(id, own))
        found += [replace(group, tensors=own)] if own else []
    return found


def outcome_table(outcomes: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """A row for each reconstructed block."""
    return [
        {
            "block": name,
            "held_out_error_before": round(one.before, 5),
            "held_out_error_after": round(one.after, 5),
            "weights": "reconstructed" if one.kept else "as they were",
        }
        for name, one in outcomes.items()
    ]


@contextmanager
def _frozen(*modules: nn.Module) -> Iterator[None]:
    """Parameters take no gradients inside."""
    tensors = [one for module in modules for one in module.parameters() if one.requires_grad]
    for tensor in tensors:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(True)


@contextmanager
def _tuned(groups: Sequence[Group]) -> Iterator[None]:
    """The groups' tensors take gradients inside, and hold none afterwards."""
    tensors = [tensor for group in groups for tensor in group.tensors]
    for tensor in tensors:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)
            tensor.grad = None
