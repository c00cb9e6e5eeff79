"""How much a whole block matters: to the outputs, to the task's loss, or to what passes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...analysis.calibration.hooks import run_watched
from ...artifact.skips import passed, replay
from ...core.errors import InputError, described
from ...core.tensors.dtypes import as_real
from ...core.tensors.modules import get_module, set_module
from ...core.types import Inputs, call, main_output
from ...evaluation.losses import Loss, mean_loss


@dataclass
class BlockEvidence:
    """A model and the data that its blocks are judged on.

    Attributes:
        module: the model, from which some blocks may be gone already.
        batches: inputs.
        targets: one entry a batch; None where there are no labels.
        loss: against the targets; None goes by their kind.
        reference: outputs of the whole model, one entry a batch; empty until they are asked for.
    """

    module: nn.Module
    batches: Sequence[Inputs]
    targets: Sequence[Any] = ()
    loss: Loss | None = None
    reference: list[Tensor] = field(default_factory=list)

    @torch.no_grad()
    def outputs(self) -> list[Tensor]:
        """What the model gives now, one tensor a batch."""
        return [as_real(main_output(call(self.module, inputs))).float() for inputs in self.batches]

    def keep_reference(self) -> None:
        """Take what the model gives now as what it should give."""
        self.reference = self.outputs()

    def without(self, edit: Mapping[str, Any], judge: Callable[[], float | str]) -> float | str:
        """What a judge says of the model while a block is left out, or why the block cannot be."""
        block = get_module(self.module, edit["target"])
        replay(self.module, dict(edit))
        try:
            return judge()
        except Exception as error:  # the model's own code reads what only the block has
            return described(error)
        finally:
            set_module(self.module, edit["target"], block)


def output_change(blocks: Mapping[str, Mapping[str, Any]], evidence: BlockEvidence) -> dict[str, float | str]:
    """Relative squared change of the outputs when one block is left out, or why it cannot be.

    Args:
        blocks: name -> the edit that leaves the block out.
        evidence: the model and its data.
    """

    def judge() -> float | str:
        outputs = evidence.outputs()
        if any(a.shape != b.shape for a, b in zip(outputs, evidence.reference, strict=True)):
            return "the outputs take another shape"
        gap = sum(float((a - b).square().sum()) for a, b in zip(outputs, evidence.reference, strict=True))
        return gap / max(sum(float(b.square().sum()) for b in evidence.reference), 1e-12)

    return {name: evidence.without(edit, judge) for name, edit in blocks.items()}


def loss_change(blocks: Mapping[str, Mapping[str, Any]], evidence: BlockEvidence) -> dict[str, float | str]:
    """The task's loss when one block is left out, or why it cannot be; arguments as of `output_change`.

    Source: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation", NeurIPS 2024,
        section 2.2 (depth by the change of the loss).
    """
    device = evidence.reference[0].device

    def judge() -> float:
        return mean_loss(evidence.module, zip(evidence.batches, evidence.targets, strict=True), device, evidence.loss)

    return {name: evidence.without(edit, judge) for name, edit in blocks.items()}


def influence(blocks: Mapping[str, Mapping[str, Any]], evidence: BlockEvidence) -> dict[str, float | str]:
    """One minus the cosine of what enters and what leaves a block, the mean over positions; in one run of the model.

    Arguments as of `output_change`. The cosine is over the last dimension, or over channels of maps.

    Source: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024, eq. 1.
    """
    totals: dict[str, list[float]] = {name: [] for name in blocks}

    def look(name: str, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        entered, left = passed(blocks[name], get_module(evidence.module, name), args, kwargs, output)
        axis = 1 if left.dim() == 4 else -1
        totals[name].append(float(1 - F.cosine_similarity(entered.float(), left.float(), axis).mean()))

    with torch.no_grad():
        for inputs in evidence.batches:
            run_watched(evidence.module, inputs, look, list(blocks))
    return {name: sum(found) / len(found) if found else "it is never called" for name, found in totals.items()}


def check_labels(criterion: str, targets: Sequence[Any]) -> None:
    """Raises InputError for a criterion that needs labels where there are none."""
    if not targets or any(target is None for target in targets):
        raise InputError(f"block_importance {criterion!r} needs data with targets; give output or influence")
