"""95 % intervals: by formula where values of examples have a mean, by resampling examples elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.959963984540054
#: resamples of a bootstrap; the ends of a 95 % interval rest on 5 of them each
RESAMPLES = 200
_SEED = 20180908


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    samples: int


def interval(values: Tensor) -> Score:
    """Mean and 95 % interval: Wilson's for zeros and ones, normal otherwise.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    n, mean = len(values), float(values.mean())
    if bool(((values == 0) | (values == 1)).all()):
        centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n * n))
    else:
        centre, half = mean, Z95 * float(values.std()) / math.sqrt(n) if n > 1 else 0.0
    return Score(mean, centre - half, centre + half, n)


def resamples(count: int, times: int = RESAMPLES) -> Iterator[Tensor]:
    """Indices of examples drawn with replacement, (count,) each; the same ones in every run."""
    generator = torch.Generator().manual_seed(_SEED)
    for _ in range(times):
        yield torch.randint(count, (count,), generator=generator)


def percentiles(value: float, found: list[float], samples: int) -> Score:
    """A score whose interval holds 95 % of resampled values, those that are no numbers left out.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    numbers = torch.tensor([one for one in found if math.isfinite(one)], dtype=torch.float64)
    if not len(numbers):
        return Score(value, value, value, samples)
    low, high = torch.quantile(numbers, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Score(value, min(low, value), max(high, value), samples)


def bootstrap(value: float, count: int, samples: int, again: Callable[[Tensor], float]) -> Score:
    """A score whose interval comes from resampled examples, or groups of them.

    Args:
        value: of all examples.
        count: of what is resampled.
        samples: examples.
        again: indices (count,) -> the metric of these.
    """
    if count < 2:
        return Score(value, value, value, samples)
    return percentiles(value, [again(indices) for indices in resamples(count)], samples)
