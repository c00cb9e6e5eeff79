import itertools

import pytest
import torch

from compresskit.pruning.importance.optimal_brain_surgeon import Reader, eliminate


def least_squares_error(x, y, columns):
    solution = torch.linalg.lstsq(x[:, columns], y).solution
    return float((y - x[:, columns] @ solution).square().sum() / y.square().sum())


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(400, 6, generator=generator, dtype=torch.float64) @ mixing
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return x, weight


@pytest.mark.parametrize("unit", range(6))
def test_error_of_one_removal_is_the_least_squares_error(problem, unit):
    x, weight = problem
    reader = Reader(x.T @ x / len(x), weight, torch.arange(6).view(6, 1), damping=1e-12)
    rest = [c for c in range(6) if c != unit]
    assert reader.errors(torch.tensor([unit])).item() == pytest.approx(
        least_squares_error(x, x @ weight.T, rest), rel=1e-6
    )


def test_errors_stay_right_after_removals(problem):
    x, weight = problem
    reader = Reader(x.T @ x / len(x), weight, torch.arange(6).view(3, 2), damping=1e-12)
    before = least_squares_error(x, x @ weight.T, [2, 3, 4, 5])
    reader.remove(torch.tensor([0]))
    after = least_squares_error(x, x @ weight.T, [4, 5])
    assert reader.errors(torch.tensor([1])).item() == pytest.approx(after - before, rel=1e-6)


def test_first_removal_is_the_best_of_all(problem):
    x, weight = problem
    reader = Reader(x.T @ x / len(x), weight, torch.arange(6).view(6, 1), damping=1e-12)
    scores = eliminate([reader], 6)
    errors = {u: least_squares_error(x, x @ weight.T, [c for c in range(6) if c != u]) for u in range(6)}
    assert int(scores.argmin()) == min(errors, key=errors.get)
    assert len(set(scores.tolist())) == 6


def test_a_repeated_input_goes_first():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    x[:, 3] = x[:, 1]
    weight = torch.ones(2, 4, dtype=torch.float64)
    scores = eliminate([Reader(x.T @ x / 200, weight, torch.arange(4).view(4, 1), damping=1e-9)], 4)
    assert int(scores.argmin()) in (1, 3)
    assert scores.min() < 1e-6 * scores.max()
    assert all(a != b for a, b in itertools.combinations(scores.tolist(), 2))
