"""Metrics of transcriptions: edits a character and a word of the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...core.errors import InputError
from ...core.types import main_output
from ..loss_terms.sequences import frames_second, is_label
from .library import LibraryMetric, torchmetrics

_FIRST_CHARACTER = 0x4E00  # of labels without an alphabet: a block of 20,000 letters without spaces


class _ErrorRate(LibraryMetric):
    """Edits that turn a transcription into the label, by its length.

    Outputs are logits (batch, frames, classes), of which the best path is taken (equal neighbours once, blanks left
    out), or a list of strings; targets are padded labels (batch, longest), or a list of strings.

    Args:
        blank: the class that stands for no label.
        alphabet: the characters of classes 0, 1, ...; without it each class is a letter of its own.
    """

    higher_is_better = False
    whole_outputs = True
    name = ""

    def __init__(self, blank: int = 0, alphabet: str = ""):
        super().__init__()
        self._blank, self._alphabet = blank, alphabet

    def make(self, outputs: Any, targets: Any) -> Any:
        """torchmetrics' error rate."""
        return torchmetrics(f"text.{self.name}")()

    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch in; logits may have their frames first."""
        texts = isinstance(outputs, list) and all(isinstance(one, str) for one in outputs)
        super().update(outputs if texts else frames_second(main_output(outputs), targets), targets)

    def prepare(self, outputs: Any, targets: Any) -> tuple[Any, ...]:
        """(transcriptions, labels) as strings."""
        wanted = self._labels(targets)
        if isinstance(outputs, list):
            return outputs, wanted
        return [self._text(best_path(row, self._blank)) for row in outputs.argmax(-1)], wanted

    def _labels(self, targets: Any) -> list[str]:
        if isinstance(targets, Tensor):
            counted = is_label(targets, self._blank)
            return [self._text(row[keep].tolist()) for row, keep in zip(targets, counted, strict=True)]
        return [str(target) for target in targets]

    def _text(self, labels: Sequence[int]) -> str:
        if not self._alphabet:
            return "".join(chr(_FIRST_CHARACTER + label) for label in labels)
        if labels and max(labels) >= len(self._alphabet):
            raise InputError(
                f"metric_arg alphabet has {len(self._alphabet)} characters, and there is a class {max(labels)}"
            )
        return "".join(self._alphabet[label] for label in labels)


class CharacterErrorRate(_ErrorRate):
    """Edits of characters, by the characters of the labels."""

    name = "CharErrorRate"


class WordErrorRate(_ErrorRate):
    """Edits of words, by the words of the labels."""

    name = "WordErrorRate"

    def make(self, outputs: Any, targets: Any) -> Any:
        """torchmetrics' error rate.

        Raises:
            InputError: for labels in integers, if no alphabet says where words end.
        """
        if isinstance(targets, Tensor) and " " not in self._alphabet:
            raise InputError("metric 'wer' splits text at spaces; give metric_arg alphabet with a space in it, or cer")
        return super().make(outputs, targets)


def best_path(classes: Tensor, blank: int) -> list[int]:
    """The labels of a path: equal neighbours count once, blanks not at all.

    Args:
        classes: the best class of each frame, (frames,).
        blank: the class that stands for no label.
    Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2.
    """
    return [label for label in classes.unique_consecutive().tolist() if label != blank]
