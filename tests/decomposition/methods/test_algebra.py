"""Factorizations against tensorly, and on tensors whose factors are known."""

import pytest
import torch

from compresskit.decomposition.methods.algebra import (
    _products,
    cp,
    cp_sensitivity,
    cp_squared_norm,
    cp_tensor,
    squared_singular_values,
    tensor_train,
    truncated_svd,
    tucker2,
    widen_cp,
)

DOUBLE = torch.float64


def _noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def test_truncated_svd_is_the_best_of_many_random_factors():
    matrix = _noise(6, 9)
    left, right = truncated_svd(matrix, 2)
    best = (matrix - left @ right).norm()
    for seed in range(20):
        basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE))[0]
        assert best <= (matrix - basis @ basis.mT @ matrix).norm()


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_truncated_svd_and_singular_values_are_those_of_the_whole_decomposition(shape):
    matrix = _noise(*shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    left, right = truncated_svd(matrix, 3)
    torch.testing.assert_close(left @ right, (u[:, :3] * s[:3]) @ vh[:3])
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))
    torch.testing.assert_close(squared_singular_values(matrix), s.square())


@pytest.mark.parametrize("narrow_rank", [10, 14, 20])
def test_cp_widened_from_a_smaller_rank_errs_no_more_than_cp_from_the_start(narrow_rank):
    kernel = _noise(12, 10, 9)
    narrow, _ = cp(kernel, narrow_rank)
    wide = widen_cp(kernel, 20, narrow)
    assert [factor.shape for factor in wide] == [(12, 20), (10, 20), (9, 20)]
    norms = [factor.norm(dim=0) for factor in wide]
    torch.testing.assert_close(norms[0], norms[1])
    afresh, _ = cp(kernel, 20)
    error = (kernel - cp_tensor(wide)).norm()
    assert error < (kernel - cp_tensor(narrow)).norm() and error <= 1.02 * (kernel - cp_tensor(afresh)).norm()


def test_tucker2_is_as_good_as_tensorlys():
    partial_tucker = pytest.importorskip("tensorly.decomposition").partial_tucker
    kernel = _noise(8, 6, 9)
    left, core, right = tucker2(kernel, 3, 4, sweeps=100)
    ours = (kernel - torch.einsum("os,srk,ri->oik", left, core, right)).norm().item()
    (peer_core, (a, b)), _ = partial_tucker(kernel.numpy(), rank=[4, 3], modes=[0, 1], n_iter_max=100, tol=1e-10)
    rebuilt = torch.einsum("os,ir,srk->oik", *map(torch.from_numpy, (a, b, peer_core)))
    assert ours == pytest.approx((kernel - rebuilt).norm().item(), rel=1e-3)


def test_tucker2_takes_ranks_larger_than_the_other_rank_times_taps():
    kernel = _noise(5, 8, 1)
    left, core, right = tucker2(kernel, 7, 1)
    assert (left.shape, core.shape, right.shape) == ((5, 1), (1, 7, 1), (7, 8))
    best = torch.linalg.svdvals(kernel[:, :, 0])[1:].norm()
    torch.testing.assert_close((kernel - torch.einsum("os,srk,ri->oik", left, core, right)).norm(), best)


def test_tensor_train_equals_tensorlys():
    decomposition = pytest.importorskip("tensorly.decomposition")
    tensorly = pytest.importorskip("tensorly")
    tensor = _noise(5, 3, 3, 6)
    rebuilt = tensor_train(tensor, (3, 6, 4))
    total = rebuilt[0]
    for core in rebuilt[1:]:
        total = torch.einsum("...a,abc->...bc", total, core)
    peer = decomposition.tensor_train(tensor.numpy(), rank=[1, 3, 6, 4, 1])
    torch.testing.assert_close(total.squeeze(0).squeeze(-1), torch.from_numpy(tensorly.tt_to_tensor(peer)))


def test_tensor_train_pads_ranks_that_earlier_ranks_make_useless():
    cores = tensor_train(_noise(5, 3, 3, 6), (1, 9, 4))
    assert [tuple(core.shape) for core in cores] == [(1, 5, 1), (1, 3, 9), (9, 3, 4), (4, 6, 1)]


@pytest.mark.filterwarnings("ignore:Trying to compute SVD with n_eigenvecs")  # tensorly's start
def test_cp_recovers_a_tensor_of_low_rank_and_is_no_worse_than_tensorly():
    factors = [_noise(7, 3), _noise(6, 3).flip(0), _noise(9, 3)]
    found, _ = cp(cp_tensor(factors), 3, sweeps=300)
    assert (cp_tensor(found) - cp_tensor(factors)).norm() < 1e-3 * cp_tensor(factors).norm()
    decomposition, tensorly = pytest.importorskip("tensorly.decomposition"), pytest.importorskip("tensorly")
    kernel = _noise(8, 6, 9)
    ours, _ = cp(kernel, 10, sweeps=200)
    peer = decomposition.parafac(kernel.numpy(), 10, n_iter_max=200, init="svd", random_state=0)
    peer_error = (kernel - torch.from_numpy(tensorly.cp_to_tensor(peer))).norm()
    assert (kernel - cp_tensor(ours)).norm() < 1.05 * peer_error


@pytest.mark.integration
def test_cp_sensitivity_is_the_expected_squared_change():
    factors = [_noise(4, 2), _noise(3, 2), _noise(5, 2)]
    generator, total, trials, step = torch.Generator().manual_seed(0), 0.0, 3000, 1e-4
    for _ in range(trials):
        moved = [f + step * torch.randn(f.shape, generator=generator, dtype=DOUBLE) for f in factors]
        total += (cp_tensor(moved) - cp_tensor(factors)).square().sum().item() / step**2
    assert total / trials == pytest.approx(cp_sensitivity(factors), rel=0.05)


def test_the_norm_of_a_cp_tensor_needs_no_tensor():
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(size, 7, generator=generator, dtype=torch.float64) for size in (5, 6, 9)]
    tensor = torch.einsum("or,ir,kr->oik", *factors)
    assert torch.allclose(cp_tensor(factors), tensor)
    assert cp_squared_norm(factors) == pytest.approx(tensor.square().sum().item())


def test_cp_of_a_degenerate_tensor_keeps_its_components_small():
    # a (x) a (x) b + a (x) b (x) a + b (x) a (x) a has border rank 2: exact fits of rank 2 only exist in the limit of
    # two diverging components that cancel
    a, b = torch.tensor([1.0, 0], dtype=DOUBLE), torch.tensor([0, 1.0], dtype=DOUBLE)
    tensor = sum(torch.einsum("i,j,k->ijk", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))
    factors, _ = cp(tensor, 2)
    components = torch.stack([cp_tensor([f[:, r : r + 1] for f in factors]).norm() for r in range(2)])
    assert components.max() < 20 * tensor.norm()


def test_products_of_many_rows_are_those_of_one_multiplication():
    matrix = torch.randn(1100, 7, dtype=torch.float64)
    found = _products(matrix)
    torch.testing.assert_close(found, matrix @ matrix.mT)
    torch.testing.assert_close(found, found.mT)
