"""Scoring candidates on held-out training examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.sensitivity.divergence import mean_divergence
from ...core.errors import InputError
from ...core.types import Inputs, call, main_output, to_device
from ...evaluation.metric_terms.boxes import Boxes, boxes_of, matched_share
from ...training.context import Context

_BATCH = 64  # activations of small batches stay in the processor's cache


@dataclass(frozen=True)
class Rating:
    """What scoring a candidate found: the metric, higher is better here, and the mean divergence from the original."""

    score: float
    divergence: float


class Rater:
    """Scores modules by the run's metric on the held-out split, and by how far outputs moved from the original's.

    Args:
        original: the model before the search (stays untouched).
        context: data, metric and device.
        samples: held-out examples.
        probe_samples: examples of `probe`, a subset.

    Attributes:
        metric: of the run.
        device: where candidates are run.
    Raises:
        InputError: if the run has no data.
    """

    def __init__(self, original: nn.Module, context: Context, *, samples: int, probe_samples: int):
        if context.data is None or context.metric is None:
            raise InputError("search scores candidates on data; name some with --data, e.g. --data digits")
        self._original = original
        self.metric, self.device = context.metric, context.device
        self._batches = context.data.batches("val", batch_size=min(_BATCH, context.eval_batch), limit=samples)
        self._probe_samples = probe_samples

    @cached_property
    def _held_out(self) -> list[tuple]:
        batches = [
            (to_device(inputs, self.device), to_device(targets, self.device)) for inputs, targets in self._batches
        ]
        return [(_channels_last(inputs), targets) for inputs, targets in batches]

    @cached_property
    def _wanted(self) -> list[Any]:
        return self._outputs(self._original, len(self._held_out))

    @torch.no_grad()
    def _outputs(self, module: nn.Module, count: int) -> list[Any]:
        module.eval().to(memory_format=torch.channels_last)
        return [call(module, inputs) for inputs, _ in self._held_out[:count]]

    def rate(self, module: nn.Module) -> Rating:
        """Metric (negated where lower is better) and divergence of a candidate."""
        outputs = self._outputs(module, len(self._held_out))
        metric = self.metric.against(_Replay(self._wanted)) if self.metric.compares_original else self.metric
        numbered = [(number, targets) for number, (_, targets) in enumerate(self._held_out)]
        value = metric.value(_Replay(outputs), numbered)
        return Rating(value if metric.higher_is_better else -value, self._divergence(outputs))

    def probe(self, module: nn.Module) -> Rating:
        """Divergence on the probe's examples; the score is not measured."""
        count = max(1, -(-self._probe_samples // _BATCH))
        outputs = self._outputs(module, count)
        return Rating(0.0, self._divergence(outputs))

    def _divergence(self, outputs: list[Any]) -> float:
        """Of outputs on the first batches from the original's; of boxes the share that is not found again."""
        wanted, inputs = self._wanted[: len(outputs)], [inputs for inputs, _ in self._held_out[: len(outputs)]]
        if boxes_of(wanted[0]) is not None:
            pairs = [pair for one, other in zip(wanted, outputs, strict=True) for pair in _paired_boxes(one, other)]
            return 1 - sum(matched_share(one, other) for one, other in pairs) / max(len(pairs), 1)
        return mean_divergence(inputs, [main_output(one) for one in wanted], [main_output(one) for one in outputs])

    def original(self) -> Rating:
        """The rating of the model before the search."""
        return self.rate(self._original)


def first_examples(batches: Iterable[Inputs], count: int) -> list[Inputs]:
    """The first `count` examples of batches; batches that are no tensors stay whole."""
    found = []
    for batch in batches:
        if count <= 0:
            break
        found.append(batch[:count] if isinstance(batch, Tensor) else batch)
        count -= len(found[-1]) if isinstance(batch, Tensor) else _BATCH
    return found


def _channels_last(inputs: Inputs) -> Inputs:
    """Images in the memory layout in which narrow convolutions are fastest."""
    if isinstance(inputs, Tensor) and inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


class _Replay(nn.Module):
    """Gives outputs that were computed already, by batch number, so that metric and divergence share one run."""

    def __init__(self, outputs: list[Any]):
        super().__init__()
        self._given = outputs

    def forward(self, number: int) -> Any:
        return self._given[number]


def _paired_boxes(wanted: Any, got: Any) -> list[tuple[Boxes, Boxes]]:
    return list(zip(boxes_of(wanted) or [], boxes_of(got) or [], strict=True))
