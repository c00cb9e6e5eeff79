"""Observers: the range of a tensor's values, gathered batch by batch in memory that does not grow.

Each has `update(values)` and `range() -> (low, high)`; the code range is that of the tensor's quantizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..formats import uniform

#: histogram bins over [-limit, limit]; doubling the limit merges pairs of them
BINS = 4096
_SHRINKS = 80


@dataclass(frozen=True)
class Levels:
    """The quantizer that a range is sought for."""

    bits: int = 8
    symmetric: bool = False


class Observer(Protocol):
    """What a row of OBSERVERS makes for one tensor."""

    def update(self, values: Tensor) -> None:
        """Take in the values of one batch, any shape."""
        ...

    def range(self) -> tuple[float, float]:
        """The lowest and highest value of the range so far."""
        ...


class MinMax:
    """The smallest and largest value seen."""

    def __init__(self, levels: Levels = Levels(), percentile: float = 99.99):
        self.low, self.high = float("inf"), float("-inf")

    def update(self, values: Tensor) -> None:
        low, high = values.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class MovingAverage:
    """Exponential averages of each batch's smallest and largest value.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", CVPR 2018, section 3.1.
    """

    momentum = 0.9

    def __init__(self, levels: Levels = Levels(), percentile: float = 99.99):
        self.low: float | None = None
        self.high = 0.0

    def update(self, values: Tensor) -> None:
        low, high = (float(edge) for edge in values.aminmax())
        if self.low is None:
            self.low, self.high = low, high
        else:
            self.low += (1 - self.momentum) * (low - self.low)
            self.high += (1 - self.momentum) * (high - self.high)

    def range(self) -> tuple[float, float]:
        return (float("inf"), float("-inf")) if self.low is None else (self.low, self.high)


class Histogram:
    """Counts in BINS equal bins over [-limit, limit]; the limit doubles when a value lies outside."""

    def __init__(self, levels: Levels = Levels(), percentile: float = 99.99):
        self.levels, self.percentile = levels, percentile
        self.limit = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.extremes = MinMax()

    def update(self, values: Tensor) -> None:
        values = values.detach().reshape(-1).float()
        self.extremes.update(values)
        largest = max(abs(self.extremes.low), abs(self.extremes.high))
        if self.limit == 0.0:
            self.limit = largest
        while 0 < self.limit < largest:
            self._double()
        if self.limit > 0:
            self.counts += torch.histc(values, BINS, -self.limit, self.limit).double().cpu()

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(1)
        self.counts = torch.nn.functional.pad(merged, (BINS // 4, BINS // 4))
        self.limit *= 2

    def range(self) -> tuple[float, float]:
        low, high = self.extremes.range()
        if self.limit == 0.0 or low >= high:
            return low, high
        return self.narrow(low, high)

    def centers(self) -> Tensor:
        """Middle of each bin, (BINS,) float64."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * self.limit / BINS) - self.limit

    def narrow(self, low: float, high: float) -> tuple[float, float]:
        """A range within [low, high]; subclasses choose how."""
        raise NotImplementedError

    def best(
        self, low: float, high: float, cost: Callable[[Tensor, Tensor, float, float], float]
    ) -> tuple[float, float]:
        """The candidate range, [low, high] shrunk in equal steps down to a twentieth, of the smallest cost."""
        used = self.counts > 0
        centers, counts = self.centers()[used], self.counts[used]
        candidates = [(low * share, high * share) for share in torch.linspace(1.0, 0.05, _SHRINKS).tolist()]
        return min(candidates, key=lambda edges: cost(centers, counts, *edges))


class Percentile(Histogram):
    """Cuts off the rarest values, (100 - percentile) / 2 percent on each side; one-sided tensors lose all of it there.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference", 2020, section 3.3.
    """

    def narrow(self, low: float, high: float) -> tuple[float, float]:
        rare = 1 - self.percentile / 100
        share = self.counts.cumsum(0) / self.counts.sum()
        width = 2 * self.limit / BINS
        cut_low = rare / 2 if high > 0 else rare
        cut_high = rare / 2 if low < 0 else rare
        first = int(torch.searchsorted(share, torch.tensor(cut_low, dtype=torch.float64), right=True))
        last = int(torch.searchsorted(share, torch.tensor(1 - cut_high, dtype=torch.float64)))
        new_low = max(low, first * width - self.limit) if low < 0 else low
        new_high = min(high, (min(last, BINS - 1) + 1) * width - self.limit) if high > 0 else high
        return new_low, new_high


class MeanSquaredError(Histogram):
    """The range whose quantizer has the smallest squared error, clipping and rounding together.

    Source: Banner et al., "Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment",
        NeurIPS 2019, section 3 (solved here on the histogram, without their assumption on its shape).
    """

    def narrow(self, low: float, high: float) -> tuple[float, float]:
        return self.best(low, high, self._squared_error)

    def _squared_error(self, centers: Tensor, counts: Tensor, low: float, high: float) -> float:
        return float(((_round_trip(centers, low, high, self.levels) - centers).square() * counts).sum())


class MeanMagnitude:
    """A step of 2 mean|v| / sqrt(largest whole number of steps), over all values seen.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, section 2.1.
    """

    def __init__(self, levels: Levels = Levels(), percentile: float = 99.99):
        self.levels = levels
        self.extremes = MinMax()
        self._total, self._count = 0.0, 0

    def update(self, values: Tensor) -> None:
        self.extremes.update(values)
        self._total += float(values.double().abs().sum())
        self._count += values.numel()

    def range(self) -> tuple[float, float]:
        low, high = self.extremes.range()
        top, middle = uniform.highest_code(self.levels.bits), uniform.middle_code(self.levels.bits)
        signed = low < 0
        highest = top - middle if signed else top
        step = 2 * self._total / max(self._count, 1) / highest**0.5
        # a range never goes beyond the values seen, in which all codes are used
        return (max(low, -middle * step) if signed else 0.0), min(high, highest * step)


class Entropy(Histogram):
    """The range that loses the least information, by Kullback-Leibler divergence.

    The reference is the histogram clipped to the range; the candidate spreads each level's unclipped count evenly
    over the bins of that level that are not empty.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """

    def narrow(self, low: float, high: float) -> tuple[float, float]:
        return self.best(low, high, self._divergence)

    def _divergence(self, centers: Tensor, counts: Tensor, low: float, high: float) -> float:
        inside = (centers >= low) & (centers <= high)
        if int(inside.sum()) < 2:
            return float("inf")
        kept = counts[inside].clone()
        reference = kept.clone()
        reference[0] += counts[centers < low].sum()
        reference[-1] += counts[centers > high].sum()
        _, level = torch.unique(_round_trip(centers[inside], low, high, self.levels), return_inverse=True)
        totals = torch.zeros(int(level.max()) + 1, dtype=torch.float64).index_add_(0, level, kept)
        sizes = torch.bincount(level).double()
        candidate = (totals / sizes)[level]
        p, q = reference / reference.sum(), candidate / candidate.sum()
        return float((p * (p / q).log()).sum())


def _round_trip(values: Tensor, low: float, high: float, levels: Levels) -> Tensor:
    scale, zero_point = uniform.range_to_scale(
        torch.tensor(low), torch.tensor(high), levels.bits, symmetric=levels.symmetric
    )
    return uniform.round_trip(values.float(), scale, zero_point, levels.bits).double()
