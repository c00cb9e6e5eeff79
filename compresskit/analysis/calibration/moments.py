"""First and second moments of the rows that layers' weights meet, summed batch by batch.

With M the mean of x x^T over a layer's input rows x, a change D of its weights costs the output a mean squared error of
trace(D M D^T): pruning, rounding and low ranks need little else of the data, and memory does not grow with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...core.tensors.dtypes import widened
from .im2col import input_rows, needs_window, output_positions
from .positions import Sampler


@dataclass(frozen=True)
class Precision:
    """Number types of sums of products; wide layers take float32, whose moments would be large and slow in float64.

    Attributes:
        products: of the products of one batch; None for the rows' own.
        sums: of the sums over batches.
        widest: most columns of a layer in these types; wider ones take float32 for both, or the rows' own products.
    """

    products: torch.dtype | None = None
    sums: torch.dtype = torch.float64
    widest: int | None = None

    def of(self, columns: int) -> tuple[torch.dtype | None, torch.dtype]:
        """(type of the products, type of the sums) for rows of so many columns."""
        if self.widest is None or columns <= self.widest:
            return self.products, self.sums
        return self.products and torch.float32, torch.float32


@dataclass(frozen=True)
class Moments:
    """Moments of a layer's input rows.

    Attributes:
        count: rows seen.
        mean: (groups, columns).
        covariance: (groups, columns, columns).
    """

    count: int
    mean: Tensor
    covariance: Tensor

    def of_columns(self, columns: Tensor) -> Moments:
        """The same of some columns."""
        return Moments(self.count, self.mean[:, columns], self.covariance[:, columns][:, :, columns])


class MomentSums:
    """Sums over input rows, to which batches are added.

    Attributes:
        second: sum of x x^T, (groups, columns, columns).
        first: sum of x, (groups, columns).
        count: rows summed; before the first ones there are no sums.
    """

    second: Tensor
    first: Tensor

    def __init__(self, precision: Precision = Precision()):
        self._precision = precision
        self.count = 0

    def update(self, rows: Tensor) -> None:
        """Take in rows, (rows, groups, columns)."""
        products, sums = self._precision.of(rows.shape[2])
        rows = rows if products is None else rows.to(products)
        if not self.count:
            self.second = rows.new_zeros(rows.shape[1], rows.shape[2], rows.shape[2], dtype=sums)
            self.first = rows.new_zeros(rows.shape[1:], dtype=sums)
        add_products(self.second, rows, rows)
        self.first += rows.sum(0).to(sums)
        self.count += len(rows)

    def mean(self) -> Tensor:
        """Mean of x, (groups, columns)."""
        return self.first / max(self.count, 1)

    def second_moment(self) -> Tensor:
        """Mean of x x^T, (groups, columns, columns)."""
        return self.second / max(self.count, 1)

    def covariance(self) -> Tensor:
        """Mean of (x - mean) (x - mean)^T, (groups, columns, columns)."""
        mean = self.mean()
        return self.second_moment() - mean[:, :, None] * mean[:, None, :]

    def result(self) -> Moments:
        """The moments of what was taken in."""
        return Moments(self.count, self.mean(), self.covariance())


def add_products(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the sum over rows of x y^T to sums, in place.

    Args:
        sums: (groups, left columns, right columns).
        left: x, (rows, groups, left columns).
        right: y, (rows, groups, right columns).
    """
    one, other = left.movedim(0, 2), right.movedim(0, 1)  # (groups, left columns, rows), (groups, rows, right columns)
    if sums.dtype != left.dtype:
        sums.add_(one @ other)
    elif len(sums) == 1:
        sums[0].addmm_(one[0], other[0])
    else:
        sums.baddbmm_(one, other)


class RegressionSums:
    """Normal equations of the linear map from rows x to rows y, to which batches are added; float64.

    Attributes:
        inputs: sums over x.
        cross: sum of x y^T, (columns, outputs).
        outputs: sum of y, (outputs,).
        energy: sum of squares of y.
    """

    def __init__(self, columns: int, outputs: int, device: torch.device):
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.inputs, self.cross, self.outputs, self.energy = MomentSums(), zeros(columns, outputs), zeros(outputs), 0.0

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take in samples, (samples, columns) and (samples, outputs), float64."""
        self.inputs.update(x[:, None])
        add_products(self.cross[None], x[:, None], y[:, None])
        self.outputs += y.sum(0)
        self.energy += float(y.square().sum())


class InputMoments:
    """Moments of what one layer reads, taken while data runs through its model.

    Args:
        sample: which output positions count.
        precision: number types.
    """

    def __init__(self, sample: Sampler, precision: Precision = Precision()):
        self._sample = sample
        self.sums = MomentSums(precision)

    def update(self, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Take in one call of a layer that has a window."""
        window = needs_window(layer, inputs)
        positions = self._sample(*output_positions(window, output))
        self.sums.update(widened(input_rows(window, inputs, positions)))


class InputMeans:
    """Mean of the rows that one layer reads, taken while data runs through its model.

    Args:
        sample: which output positions count.
    """

    def __init__(self, sample: Sampler):
        self._sample, self._count = sample, 0
        self._sum: Tensor | None = None

    def update(self, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Take in one call of a layer that has a window."""
        window = needs_window(layer, inputs)
        rows = widened(input_rows(window, inputs, self._sample(*output_positions(window, output))))
        found = rows.sum(0).double()
        self._sum = found if self._sum is None else self._sum + found
        self._count += len(rows)

    def mean(self) -> Tensor:
        """(groups, columns), float64.

        Raises:
            TypeError: if the layer was never called.
        """
        if self._sum is None:
            raise TypeError("no data reached the layer")
        return self._sum / self._count


def moments_of_rows(rows: Tensor) -> Moments:
    """Moments of rows held in memory, (rows, groups, columns)."""
    mean = rows.mean(0)
    centred = rows - mean
    return Moments(len(rows), mean, torch.einsum("ngi,ngj->gij", centred, centred) / len(rows))


def output_error(delta: Tensor, second: Tensor) -> Tensor:
    """Mean squared output error, summed over outputs, of changing a weight matrix.

    Args:
        delta: the change, (rows, columns).
        second: mean of x x^T, (weight groups, columns, columns).
    Returns:
        a scalar tensor.
    """
    split = delta.reshape(second.shape[0], -1, delta.shape[1])
    return ((split @ second.to(delta.dtype)) * split).sum()
