import pytest
import torch

from compresskit.analysis.calibration.moments import RegressionSums
from compresskit.pruning.recovery.ridge import STRENGTHS, NormalEquations, chosen_strength, total


def _equations(x, y):
    sums = RegressionSums(x.shape[1], y.shape[1], x.device)
    sums.update(x, y)
    return NormalEquations.of(sums)


def _samples(rows, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64) + 2
    truth = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return x, x @ truth + noise * torch.randn(rows, 3, generator=generator, dtype=torch.float64), truth


def test_sums_of_shifted_samples_are_the_shifted_sums():
    x, y, _ = _samples(20, 1.0)
    by_x, by_y = torch.arange(6.0, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    shifted, direct = _equations(x, y).shifted(by_x, by_y), _equations(x - by_x, y - by_y)
    for name in ("gram", "cross", "inputs", "outputs"):
        torch.testing.assert_close(getattr(shifted, name), getattr(direct, name))
    assert shifted.energy == pytest.approx(direct.energy) and shifted.count == direct.count


def test_folds_add_up_and_come_off_again():
    x, y, _ = _samples(20, 1.0)
    parts = [_equations(x[:7], y[:7]), _equations(x[7:], y[7:])]
    whole = _equations(x, y)
    torch.testing.assert_close(total(parts).gram, whole.gram)
    rest = whole.plus(parts[0], -1)
    torch.testing.assert_close(rest.cross, parts[1].cross)
    assert rest.count == 13


def test_the_solution_is_the_ridge_regression_towards_the_start():
    x, y, _ = _samples(20, 1.0)
    equations, start = _equations(x, y), torch.ones(6, 3, dtype=torch.float64)
    pull = 0.1 * float((x.T @ x).diagonal().mean())
    rows = torch.cat([x, pull**0.5 * torch.eye(6, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(rows, torch.cat([y, pull**0.5 * start])).solution
    found = equations.solve(start, 0.1)
    torch.testing.assert_close(found, wanted)
    assert equations.left(found) == pytest.approx(float((y - x @ found).square().sum()))


@pytest.mark.parametrize("intercept", [False, True])
def test_the_strength_is_the_one_that_errs_least_on_samples_left_out(intercept):
    """Many clean samples want a weak pull, few noisy ones near a good start a strong one."""
    x, y, truth = _samples(400, 0.01)
    far = torch.zeros_like(truth)
    assert chosen_strength([_equations(x[i::4], y[i::4]) for i in range(4)], far, intercept=intercept) == STRENGTHS[0]
    x, y, truth = _samples(12, 5.0)
    folds = [_equations(x[i::4], y[i::4]) for i in range(4)]
    assert chosen_strength(folds, truth, intercept=intercept) >= 1.0


def test_the_strength_equals_the_best_of_all_tried_by_hand():
    x, y, truth = _samples(24, 1.5, seed=3)
    start = truth + 0.3
    parts = [(x[i::4], y[i::4]) for i in range(4)]

    def left_out(strength):
        error = 0.0
        for number, (own_x, own_y) in enumerate(parts):
            others = [part for other, part in enumerate(parts) if other != number]
            seen = _equations(torch.cat([a for a, _ in others]), torch.cat([b for _, b in others]))
            error += float((own_y - own_x @ seen.solve(start, strength)).square().sum())
        return error

    folds = [_equations(*part) for part in parts]
    assert chosen_strength(folds, start, intercept=False) == min(STRENGTHS, key=left_out)
