"""The rank of variational Bayes: known thresholds, known ranks, and the free energy's minimum by brute force."""

import pytest
import torch

from compresskit.decomposition.ranks.evbmf import _noise_variance, evbmf_rank, free_energy, threshold


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


def _least_free_energy(singular, short, long, variance):
    """The least variational free energy of one component against none, by search over the posterior itself.

    The posterior of a component has means a, b with a * b = the fitted singular value and variances u, v; the priors'
    variances are at their optimum, (a^2 + rows * u) / rows and likewise. The scale of a against b does not matter, so
    a = b.
    """
    least = float("inf")
    for share in (0.4, 0.9):
        # a as large as a share of the singular value asks for, and variances as small as a's equations give them
        a2 = share * singular
        point = torch.tensor([a2**0.5, *(2 * [torch.tensor(variance / a2).log()])], dtype=torch.float64)
        point.requires_grad_()
        optimizer = torch.optim.LBFGS([point], max_iter=40, line_search_fn="strong_wolfe")

        def energy(point=point, optimizer=optimizer):
            optimizer.zero_grad()
            a, u, v = point[0], point[1].exp(), point[2].exp()
            left, right = a.square() + short * u, a.square() + long * v
            priors = short * (left / (short * u)).log() + long * (right / (long * v)).log()
            value = priors + (left * right - 2 * a.square() * singular) / variance
            value.backward()
            return value

        optimizer.step(energy)
        least = min(least, energy().item())
    return least


@pytest.mark.parametrize(("short", "long"), [(4, 40), (20, 30)])
def test_a_component_is_kept_just_where_its_variational_free_energy_is_below_none(short, long):
    variance = 0.7
    singular = (long * variance * threshold(short / long)) ** 0.5
    assert _least_free_energy(1.03 * singular, short, long, variance) < -1e-2
    assert _least_free_energy(0.97 * singular, short, long, variance) > -1e-6


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
