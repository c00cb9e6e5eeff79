"""Fitting: the schedule and unit by hand, a problem with a known answer, steps that are taken back."""

import pytest
import torch

from compresskit.analysis.reconstruction.fitting import Group, fit, held_out, variance


def test_the_unit_is_the_variance_over_all_batches():
    assert variance([torch.tensor([1.0, 2.0]), torch.tensor([3.0])]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("count,aside", [(1, 0), (2, 1), (16, 2), (1000, 16)])
def test_held_out_batches(count, aside):
    assert held_out(count) == aside


def problem():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(32, 4, generator=generator) for _ in range(16)]
    truth = torch.tensor([1.0, -2.0, 0.5, 3.0])
    return inputs, [one @ truth for one in inputs], truth


def test_it_finds_the_weights_that_made_the_targets():
    inputs, wanted, truth = problem()
    weight = torch.zeros(4, requires_grad=True)
    outcome = fit(
        lambda number: (inputs[number] @ weight - wanted[number]).square().mean(),
        len(inputs), [Group([weight], 0.1)], iterations=300, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    torch.testing.assert_close(weight.detach(), truth, rtol=0, atol=1e-2)
    assert outcome.kept and outcome.after < 1e-3 * outcome.before


def test_a_larger_held_out_error_puts_everything_back():
    inputs, wanted, truth = problem()
    weight = truth.clone().requires_grad_()
    seen = len(inputs) - held_out(len(inputs))

    def error(number):  # what training sees asks for other weights than what is held out
        sign = -1.0 if number < seen else 1.0
        return (inputs[number] @ weight - sign * wanted[number]).square().mean()

    outcome = fit(error, len(inputs), [Group([weight], 0.1)], iterations=50, generator=torch.Generator())
    assert not outcome.kept and outcome.after > outcome.before == 0.0
    assert torch.equal(weight.detach(), truth)
    assert "so its weights stay" in str(outcome)
