"""Losses of sequences whose alignment is unknown: connectionist temporal classification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ...core.tensors.dtypes import widened
from ...core.types import main_output


def ctc(outputs: Any, targets: Tensor, blank: int = 0) -> Tensor:
    """Connectionist temporal classification: the negative logarithm of the probability of all alignments.

    Args:
        outputs: what the model returned; its main tensor is logits (batch, frames, classes), or (frames, batch,
            classes) as torch's own recurrent layers give it.
        targets: integer labels (batch, longest), each row padded with the blank or with negative numbers.
        blank: the class that stands for no label.
    Returns:
        the mean over examples of the loss divided by the number of labels, as torch has it.
    Raises:
        InputError: if the shapes do not fit, or a row has more labels than there are frames.
    Source: Graves et al., "Connectionist Temporal Classification", ICML 2006.
    """
    logits = frames_second(widened(main_output(outputs)), targets)
    counted = is_label(targets, blank)
    lengths = counted.sum(1)
    frames = torch.full((len(targets),), logits.shape[1], dtype=torch.long)
    if int(lengths.max()) > logits.shape[1]:
        raise InputError(
            f"loss 'ctc': an example has {int(lengths.max())} labels and the model gives {logits.shape[1]} frames; "
            "make the model's output longer"
        )
    largest = int(targets.max())
    if largest >= logits.shape[2]:
        raise InputError(f"loss 'ctc': there is a label {largest}, and the model has {logits.shape[2]} classes")
    log_probabilities = logits.log_softmax(-1).transpose(0, 1)
    # labels of all rows behind each other: a row may be padded in its middle
    return F.ctc_loss(log_probabilities, targets[counted], frames, lengths, blank, zero_infinity=True)


def frames_second(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits as (batch, frames, classes).

    Raises:
        InputError: if they are no sequences, or of another batch.
    """
    if logits.dim() != 3 or targets.dim() != 2 or targets.is_floating_point():
        raise InputError(
            f"loss 'ctc' takes logits (batch, frames, classes) and integer labels (batch, longest), got "
            f"{list(logits.shape)} and {list(targets.shape)}"
        )
    if logits.shape[0] == len(targets):
        return logits
    if logits.shape[1] == len(targets):
        return logits.transpose(0, 1)
    raise InputError(f"loss 'ctc': logits {list(logits.shape)} hold no {len(targets)} examples")


def is_label(targets: Tensor, blank: int) -> Tensor:
    """Which entries of padded targets are labels, (batch, longest) of bool."""
    return (targets >= 0) & (targets != blank)
