"""Whether a changed model's blocks are reconstructed, in how many steps, and from how many examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...core.reporting.phases import duration
from ...core.tensors.batches import count_examples, tensors_of
from ...core.tensors.devices import device_of
from ...core.tensors.modules import evaluating
from ...core.timings.decisions import label
from ...core.types import Inputs, Loaded, call, to_device
from ...model.text_inputs import is_causal
from ...training.context import Context
from ..calibration.block_walk.blocks import Block, find_blocks
from .blockwise import Settings
from .options import BATCH, FEWEST_EXAMPLES, JointReconstructionOptions, ReconstructionOptions

#: the fewest steps that are worth it
_FEWEST_STEPS = 50
#: a gradient step takes about three forward passes; one of all blocks at once also asks the original model
_PASSES_A_STEP = 3
#: how long a forward pass is timed, and how often at most
_TIMED_SECONDS, _TIMED_PASSES = 2.0, 20
#: inputs for steps of all blocks at once
_JOINT_BYTES = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What blocks are reconstructed, from what.

    Attributes:
        blocks: of the original model.
        batches: examples, one batch a gradient step.
        settings: steps, seed, log.
        joint_batches: examples for steps of all blocks at once.
    """

    blocks: Sequence[Block]
    batches: Sequence[Inputs]
    settings: Settings
    joint_batches: Sequence[Inputs] = ()


def plan_reconstruction(
    original: Loaded, options: ReconstructionOptions, context: Context, notes: list[str], *, worthwhile: bool
) -> Plan | None:
    """How blocks are reconstructed by the options, or as data and time allow; None where they are not.

    Args:
        original: the model before it is changed.
        options: reconstruct, iterations, reconstruction_samples; those of all blocks at once, where there are any.
        context: data, seed, log.
        notes: takes a line where `auto` has too little time for all steps.
        worthwhile: whether `auto` should consider it at all.
    """
    automatic = options.reconstruct == "auto"
    if options.reconstruct not in ("auto", "block") or (automatic and (context.data is None or not worthwhile)):
        return None
    data = context.needs_data()
    if automatic and data.size("train", at_most=FEWEST_EXAMPLES) < FEWEST_EXAMPLES:
        return None
    device = device_of(original.module)
    example = to_device(original.example, device)
    blocks = find_blocks(original.module, example)
    examples = options.reconstruction_samples
    iterations, joint, joint_examples = options.iterations, 0, 0
    if isinstance(options, JointReconstructionOptions):
        joint, joint_examples = options.joint_iterations, options.joint_samples
    # a text fills the machine alone, and of a batch the logits of a large vocabulary may not fit into memory
    timed = 1 if is_causal(original.module) else BATCH
    batch = to_device(data.calibration(timed, batch_size=timed, seed=context.seed)[0], device)
    if automatic:
        looks = 3 * examples / BATCH
        needed = (looks + 2 * _PASSES_A_STEP * iterations) * BATCH / timed
        within = options.reconstruction_seconds / needed
        seconds_a_pass = _seconds_a_pass(original, batch, context, within) * BATCH / timed
        passes = options.reconstruction_seconds / seconds_a_pass - looks
        iterations = min(iterations, int(passes / (2 * _PASSES_A_STEP)))
        joint = min(joint, int((passes - _PASSES_A_STEP * iterations) / (_PASSES_A_STEP + 1)))
        if iterations < options.iterations:
            whole = (looks + 2 * _PASSES_A_STEP * options.iterations) * seconds_a_pass
            notes.append(
                f"blocks are {f'tuned in {iterations} steps' if iterations >= _FEWEST_STEPS else 'not tuned'}: "
                f"{options.iterations} steps would take some {duration(whole)}, and reconstruct auto has "
                f"{duration(options.reconstruction_seconds)}; reconstruction_seconds gives it more"
            )
            context.log(notes[-1])
        if iterations < _FEWEST_STEPS:
            return None
    held = _JOINT_BYTES // max(_bytes_an_example(batch), 1)
    both = max(examples, min(joint_examples, held)) if joint else examples
    batches = data.calibration(both, batch_size=BATCH, seed=context.seed)
    batches = [to_device(one, device) for one in batches]
    settings = Settings(iterations, context.seed, context.log, context.folder, joint)
    return Plan(blocks, batches[: -(-examples // BATCH)], settings, batches if joint else ())


def _bytes_an_example(batch: Inputs) -> int:
    return sum(one.nbytes for one in tensors_of(batch)) // max(count_examples(batch), 1)


def _seconds_a_pass(original: Loaded, batch: Inputs, context: Context, within: float) -> float:
    """What a forward pass of data takes; an earlier run's time is doubted where it is above what all steps allow."""

    @torch.no_grad()
    def measured() -> float:
        found: list[float] = []
        with evaluating(original.module):
            # the least of many, since other processes only add time, and what they add must not decide what is tuned
            while len(found) < 3 or (sum(found) < _TIMED_SECONDS and len(found) < _TIMED_PASSES):
                started = time.perf_counter()
                call(original.module, batch)
                found.append(time.perf_counter() - started)
        return min(found)

    # texts and images come in any size, and the same model is timed for each
    shapes = [list(tensor.shape) for tensor in tensors_of(batch)]
    name = label(str(original.module), shapes)
    seconds = context.decisions(
        f"forward for reconstruction {name}", measured, doubted=lambda seconds: seconds > within
    )
    return max(float(seconds), 1e-6)
