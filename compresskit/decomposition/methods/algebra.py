"""Factorizations of matrices and kernel tensors, as pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_STRIP = 512  # rows of a matrix whose products with the others are found together
_GAINED = 1e-4  # share of what `tucker2` explains, below which another sweep is not worth its time
_TRIAL_SWEEPS = 6  # of every start of `cp`
_WIDENING_SWEEPS = 12  # of `widen_cp`
_DAMPED_SWEEPS = 4  # how far the damping has faded where factors are widened
_SINGLE_FROM = 2**18  # elements of a kernel whose alternating least squares run in float32, in half the time


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors of a rank in the Frobenius norm; both carry the square root of the singular values.

    Args:
        matrix: (rows, columns).
    Returns:
        left (rows, rank) and right (rank, columns), whose product approximates the matrix.
    Source: Eckart & Young, "The approximation of one matrix by another of lower rank", 1936.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, left = truncated_svd(matrix.mT, rank)
        return left.mT, right.mT
    # the vectors of the smaller side span the same space, and cost a fraction of a whole decomposition
    left = leading_vectors(matrix, rank)
    right = left.mT @ matrix
    root = right.norm(dim=1).sqrt()
    return left * root, right / root.clamp_min(torch.finfo(matrix.dtype).tiny)[:, None]


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Squares of all singular values, falling, (min(rows, columns),)."""
    gram = _products(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT)
    return torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)


def _products(matrix: Tensor) -> Tensor:
    """matrix @ matrix.mT, (rows, rows), of which one half is taken over from the other."""
    found = matrix.new_empty(len(matrix), len(matrix))
    for start in range(0, len(matrix), _STRIP):
        stop = start + _STRIP
        found[start:, start:stop] = matrix[start:] @ matrix[start:stop].mT
        found[start:stop, stop:] = found[stop:, start:stop].mT
    return found


def leading_vectors(matrix: Tensor, rank: int) -> Tensor:
    """Orthonormal left singular vectors of the largest singular values, (rows, rank); rank may exceed the columns."""
    if matrix.shape[0] <= matrix.shape[1] or rank > matrix.shape[1]:
        return torch.linalg.eigh(_products(matrix))[1].flip(1)[:, :rank]
    return torch.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def tucker2(kernel: Tensor, in_rank: int, out_rank: int, sweeps: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Tucker decomposition of the two channel modes, by higher-order orthogonal iteration.

    Args:
        kernel: (out, in, taps).
        sweeps: at most; it ends where one gains no more than 1e-4 of what is explained.
    Returns:
        left (out, out_rank), core (out_rank, in_rank, taps), right (in_rank, in); the channel factors are orthonormal.
    Source: De Lathauwer et al., "On the best rank-1 and rank-(R1,...,RN) approximation", 2000; Kim et al.,
        "Compression of deep convolutional neural networks for fast and low power mobile applications", ICLR 2016.
    """
    out_channels, in_channels, _ = kernel.shape
    right = leading_vectors(kernel.transpose(0, 1).reshape(in_channels, -1), in_rank)

    def left_given(right: Tensor) -> Tensor:
        return leading_vectors(torch.einsum("oik,ir->ork", kernel, right).reshape(out_channels, -1), out_rank)

    left, explained, sweep = left_given(right), 0.0, 1
    while True:
        seen = torch.einsum("oik,or->irk", kernel, left)
        right = leading_vectors(seen.reshape(in_channels, -1), in_rank)
        core = torch.einsum("irk,is->rsk", seen, right)
        before, explained = explained, core.square().sum().item()
        if sweep >= sweeps or explained - before <= _GAINED * explained:
            return left, core, right.mT
        left, sweep = left_given(right), sweep + 1


def tensor_train(tensor: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """Tensor-train cores by successive truncated singular value decompositions.

    Args:
        tensor: any number of axes, (n1, ..., nd).
        ranks: the d - 1 inner ranks.
    Returns:
        d cores; core j is (ranks[j - 1], nj, ranks[j]), with 1 at both ends.
    Source: Oseledets, "Tensor-train decomposition", 2011, algorithm 1.
    """
    cores, rest, before = [], tensor, 1
    for size, rank in zip(tensor.shape[:-1], ranks, strict=True):
        matrix = rest.reshape(before * size, -1)
        found = min(rank, *matrix.shape)
        left = leading_vectors(matrix, found)
        missing = rank - found  # where earlier ranks leave fewer directions, zeros fill up
        left, right = F.pad(left, (0, missing)), F.pad(left.mT @ matrix, (0, 0, 0, missing))
        cores.append(left.reshape(before, size, rank))
        rest, before = right, rank
    return [*cores, rest.reshape(before, tensor.shape[-1], 1)]


def cp(kernel: Tensor, rank: int, *, starts: int = 2, sweeps: int = 20, seed: int = 0) -> tuple[list[Tensor], float]:
    """Canonical polyadic factors of a third-order tensor, by damped alternating least squares.

    Plain alternating least squares lets pairs of components grow without bound and cancel. Here a fading proximal
    term keeps each step short, columns are balanced after every sweep, and of several starts the one goes on whose
    error plus 1e-6 times its sensitivity (the effect of a perturbation of 1e-3 in the factors) is smallest after six
    sweeps.

    Args:
        kernel: (out, in, taps).
        starts: the first starts from leading singular vectors, the others from seeded noise.
    Returns:
        factors [(out, rank), (in, rank), (taps, rank)] of equal column norms, and the sensitivity relative to the
        tensor's squared norm.
    Source: Phan et al., "Stable low-rank tensor decomposition for compression of convolutional neural network",
        ECCV 2020, eq. 4 (sensitivity).
    """
    norm, unit = _unit(kernel)

    def score(factors: list[Tensor]) -> float:
        return (unit - cp_tensor(factors)).square().sum().item() + 1e-6 * cp_sensitivity(factors)

    # which start leads shows early; only that one is carried on
    trials = [_als(unit, _cp_start(unit, rank, start, seed), min(_TRIAL_SWEEPS, sweeps)) for start in range(starts)]
    factors = _als(unit, min(trials, key=score), sweeps - _TRIAL_SWEEPS, first_sweep=_TRIAL_SWEEPS)
    root = norm ** (1 / 3)
    return [factor.to(kernel.dtype) * root for factor in factors], cp_sensitivity(factors)


def widen_cp(kernel: Tensor, rank: int, narrow: list[Tensor], *, seed: int = 0) -> list[Tensor]:
    """Canonical polyadic factors begun at those of a smaller rank: seeded noise makes the other columns.

    Twelve sweeps from there take half the time of `cp`'s twenty from two starts, and err from 2 % more (at the lowest
    ranks) to 13 % less: two layers of ResNet-20 and a random kernel between 25 and 80 % of the multiplications.

    Args:
        kernel: (out, in, taps).
        narrow: factors [(out, narrow rank), (in, narrow rank), (taps, narrow rank)].
    Returns:
        factors as `cp` gives them.
    """
    norm, unit = _unit(kernel)
    root = norm ** (1 / 3)
    noise = _cp_start(unit, rank, 1, seed)
    begun = []
    for factor, more in zip(narrow, noise, strict=True):
        own, new = (factor / root).to(unit), more[:, factor.shape[1] :]
        begun.append(torch.cat([own, new * (own.norm(dim=0).median() / more.norm(dim=0).median())], 1))
    found = _als(unit, begun, _WIDENING_SWEEPS, first_sweep=_DAMPED_SWEEPS)
    return [factor.to(kernel.dtype) * root for factor in found]


def _unit(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """(norm, kernel of norm 1 in the number type that its factors are found in)."""
    norm = kernel.norm().clamp_min(torch.finfo(kernel.dtype).tiny)
    unit = kernel / norm
    return norm, unit.float() if kernel.numel() >= _SINGLE_FROM else unit


def cp_tensor(factors: list[Tensor]) -> Tensor:
    """The tensor (out, in, taps) of three factor matrices."""
    left, right, taps = factors
    return (left @ (right[:, None] * taps).flatten(0, 1).mT).reshape(len(left), len(right), len(taps))


def cp_squared_norm(factors: list[Tensor]) -> float:
    """The squared norm of `cp_tensor`, without making it."""
    left, right, taps = (factor.mT @ factor for factor in factors)
    return (left * right * taps).sum().item()


def cp_sensitivity(factors: list[Tensor]) -> float:
    """Expected squared change of the tensor per unit variance of noise in the factors' entries (Phan et al., eq. 4)."""
    squares = [factor.square().sum(0) for factor in factors]
    sizes = [factor.shape[0] for factor in factors]
    return sum(
        (squares[(mode + 1) % 3] * squares[(mode + 2) % 3]).sum().item() * sizes[mode] for mode in range(3)
    )  # fmt: skip


def _cp_start(kernel: Tensor, rank: int, start: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed + start)
    factors = []
    for mode in range(3):
        size = kernel.shape[mode]
        noise = torch.randn(size, rank, generator=generator, dtype=torch.float64).to(kernel) / size**0.5
        if start == 0:
            vectors = leading_vectors(kernel.movedim(mode, 0).reshape(size, -1), min(rank, size))
            noise[:, : vectors.shape[1]] = vectors
        factors.append(noise)
    return factors


def _als(kernel: Tensor, factors: list[Tensor], sweeps: int, first_sweep: int = 0) -> list[Tensor]:
    """Alternating least squares with balanced columns; the damping fades from `first_sweep` on."""
    rows, columns = kernel.flatten(1), kernel.permute(1, 2, 0).contiguous()  # (out, in * taps), (in, taps, out)
    floor = 1e-9 if kernel.dtype == torch.float64 else 1e-6
    left, right, taps = _balance(factors)
    for sweep in range(first_sweep, first_sweep + sweeps):
        ridge = max(1e-2 * 0.5**sweep, floor)
        joined = (right[:, None] * taps).flatten(0, 1)  # (in * taps, rank)
        of_taps = taps.mT @ taps
        left = _proximal(left, rows @ joined, (right.mT @ right) * of_taps, ridge)
        of_left = left.mT @ left
        seen = columns @ left  # (in, taps, rank), which both other modes read
        right = _proximal(right, (seen * taps).sum(1), of_left * of_taps, ridge)
        # an einsum would multiply a matrix with a vector for each component, in seven times the time
        taps = _proximal(taps, (seen * right[:, None]).sum(0), of_left * (right.mT @ right), ridge)
        left, right, taps = _balance([left, right, taps])
    return [left, right, taps]


def _proximal(last: Tensor, right: Tensor, gram: Tensor, ridge: float) -> Tensor:
    """One mode's least squares, with a pull towards the last iterate that scales with the unknown's own equations.

    Args:
        last: (size, rank).
        right: the kernel times the other factors, (size, rank).
        gram: of the other factors' products, (rank, rank); changed.
    """
    weight = ridge * gram.diagonal().mean()
    gram.diagonal().add_(weight)
    return torch.cholesky_solve((right + weight * last).mT, torch.linalg.cholesky_ex(gram)[0]).mT


def _balance(factors: list[Tensor]) -> list[Tensor]:
    norms = [factor.norm(dim=0).clamp_min(1e-30) for factor in factors]
    shared = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return [factor / norm * shared for factor, norm in zip(factors, norms, strict=True)]
