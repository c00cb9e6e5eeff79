"""The rank of variational Bayes: known thresholds, known ranks, and the free energy's minimum by brute force."""

import pytest
import torch

from compresskit.decomposition.evbmf import _noise_variance, evbmf_rank, free_energy, threshold


def _matrix(rows, columns, rank, noise, scale=3.0):
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(shape, generator=g, dtype=torch.float64)  # noqa: E731
    return scale * normal(rows, rank) @ normal(rank, columns) / rank**0.5 + noise * normal(rows, columns)


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_the_rank_under_noise_is_found(rank):
    assert evbmf_rank(_matrix(60, 90, rank, 0.5)) == rank
    assert evbmf_rank(_matrix(60, 90, rank, 0.5).mT) == rank


def test_noise_alone_has_rank_zero():
    assert evbmf_rank(_matrix(60, 90, 1, 1.0, scale=0.0)) == 0


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.1, 2e-2), (0.5, 2e-3), (1.0, 1e-4)])
def test_threshold_is_close_to_the_published_approximation(alpha, tolerance):
    # the paper approximates tau by 2.5129 sqrt(alpha), which is exact for square matrices
    tau = 2.5129 * alpha**0.5
    assert threshold(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=tolerance)


@pytest.mark.parametrize(("short", "long"), [(6, 60), (30, 50), (40, 40)])
def test_at_the_threshold_keeping_a_component_is_worth_as_much_as_dropping_it(short, long):
    bound = threshold(short / long)
    variance = torch.ones(1, dtype=torch.float64)
    below, above = (
        free_energy(torch.tensor([long * bound * x], dtype=torch.float64), variance, short, long, bound).item()
        for x in (1 - 1e-9, 1 + 1e-9)
    )
    assert below == pytest.approx(above, abs=1e-6)


def test_noise_variance_minimizes_the_free_energy():
    matrix = _matrix(30, 50, 3, 0.7)
    squares = torch.linalg.svdvals(matrix).square()
    bound = threshold(30 / 50)
    grid = torch.linspace(-6, 6, 20001, dtype=torch.float64).exp()
    best = free_energy(squares, grid, 30, 50, bound).min().item()
    found = torch.tensor([_noise_variance(squares, 30, 50, bound)], dtype=torch.float64)
    assert free_energy(squares, found, 30, 50, bound).item() <= best + 1e-6
    assert found.item() == pytest.approx(0.49, rel=0.1)


@pytest.mark.parametrize(("matrix", "rank"), [(torch.zeros(3, 4), 0), (torch.ones(1, 5), 1), (torch.zeros(1, 5), 0)])
def test_edges(matrix, rank):
    assert evbmf_rank(matrix) == rank
