"""Factors weighted on both sides: as good as brute force, on the scale of the layer, and after what matters."""

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.im2col import input_rows, window_of
from compresskit.analysis.calibration.moments import moments_of_rows
from compresskit.analysis.sensitivity.channels import drawn_class, output_curvatures, unlabelled
from compresskit.analysis.sensitivity.divergence import divergence
from compresskit.decomposition.fit.fit import Evidence, fit_activation
from compresskit.decomposition.fit.kfac import fit_kfac
from compresskit.decomposition.methods.geometry import geometry_of
from compresskit.decomposition.methods.kinds import chain_of, compose, rows_of
from compresskit.decomposition.tables import KINDS

DOUBLE = torch.float64
DAMPED = 0.1
LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), (60, 8), "svd", (2,)),
    "conv2d-grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), (4, 4, 7, 7), "channel-svd", (2,)),
    "spatial": (lambda: nn.Conv2d(3, 6, 3, padding=1), (4, 3, 7, 7), "spatial-svd", (2,)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2), (4, 4, 5, 5), "input-svd", (2,)),
}


def _task(name):
    make, shape, kind, ranks = LAYERS[name]
    torch.manual_seed(5)
    layer = make().double()
    spread = torch.logspace(0, -1, shape[1], dtype=DOUBLE).view(-1, *[1] * (len(shape) - 2))
    x = torch.randn(shape, dtype=DOUBLE) * spread + 0.3
    geometry = geometry_of(layer)
    rows = input_rows(window_of(layer), x)
    bias = torch.zeros(geometry.out_channels, dtype=DOUBLE) if layer.bias is None else layer.bias.detach()
    mixed = torch.randn(geometry.out_channels, geometry.out_channels, dtype=DOUBLE)
    curvature = mixed @ torch.diag(torch.logspace(1, -2, len(mixed), dtype=DOUBLE)) @ mixed.mT
    moments = moments_of_rows(rows)
    parts = rows_of(geometry, layer.weight.detach()).chunk(geometry.groups)
    mean = torch.cat([part @ own for part, own in zip(parts, moments.mean, strict=True)]) + bias
    return geometry, KINDS.load(kind), ranks, Evidence(layer.weight.detach(), bias, moments, mean, curvature=curvature)


def _loss(geometry, evidence, weight):
    """Sum over groups of tr(G D C D^T), D what is left out, G damped as documented."""
    gap = rows_of(geometry, evidence.target - weight).chunk(geometry.groups)
    total = 0.0
    for group, own in enumerate(gap):
        channels = slice(group * len(own), (group + 1) * len(own))
        weights = evidence.curvature[channels, channels]
        weights = weights / weights.diagonal().mean() + DAMPED * torch.eye(len(own), dtype=DOUBLE)
        total = total + torch.trace(weights @ own @ evidence.moments.covariance[group] @ own.mT)
    return total


@pytest.mark.parametrize("name", LAYERS)
def test_no_descent_from_anywhere_finds_factors_that_lose_less(name):
    geometry, kind, ranks, evidence = _task(name)
    chain = chain_of(kind, geometry, ranks)
    fit = fit_kfac(kind, geometry, ranks, evidence)
    ours = _loss(geometry, evidence, compose(geometry, chain, fit.factors)).item()
    found = []
    for start in range(2):
        torch.manual_seed(start)
        factors = [torch.randn_like(one).mul_(0.3).requires_grad_() for one in fit.factors]
        optimizer = torch.optim.LBFGS(factors, max_iter=60, history_size=20, line_search_fn="strong_wolfe")

        def loss(factors=factors, optimizer=optimizer):
            optimizer.zero_grad()
            value = _loss(geometry, evidence, compose(geometry, chain, factors))
            value.backward()
            return value

        optimizer.step(loss)
        found.append(loss().item())
    # of one cut between two links the optimum is closed; the others are a dozen steps from the weights' factors
    assert ours <= min(found) * (1 + 1e-6 if kind.output_side else 1.1)
    plain = fit_activation(kind, geometry, ranks, evidence)
    assert ours < 0.95 * _loss(geometry, evidence, compose(geometry, chain, plain.factors)).item()


def test_the_factors_are_those_of_the_doubly_whitened_svd_and_the_mean_output_stays():
    geometry, kind, ranks, evidence = _task("linear")
    fit = fit_kfac(kind, geometry, ranks, evidence)
    weights = evidence.curvature / evidence.curvature.diagonal().mean() + DAMPED * torch.eye(6, dtype=DOUBLE)
    left, right = torch.linalg.cholesky(weights).mT, torch.linalg.cholesky(evidence.moments.covariance[0])
    u, s, vh = torch.linalg.svd(left @ evidence.target @ right)
    wanted = torch.linalg.inv(left) @ (u[:, :2] * s[:2]) @ vh[:2] @ torch.linalg.inv(right)
    ours = compose(geometry, chain_of(kind, geometry, ranks), fit.factors)
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours @ evidence.moments.mean[0] + fit.bias, evidence.mean_output)
    assert fit.error == pytest.approx((s[2:].square().sum() / s.square().sum()).sqrt().item(), rel=1e-6)


def test_without_a_curvature_it_is_the_fit_to_outputs():
    geometry, kind, ranks, evidence = _task("spatial")
    evidence.curvature = None
    assert fit_kfac(kind, geometry, ranks, evidence) is fit_activation(kind, geometry, ranks, evidence)


def test_a_prediction_keeps_what_it_rests_on_though_it_varies_little():
    """The head reads the two weakest of eight outputs; the layer's outputs as such are spanned by the strongest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.linalg.qr(torch.randn(8, 8))[0] * torch.logspace(1, -1, 8)[:, None])
        model[1].weight[:, :6] = 0.0
        model[1].weight[:, 6:] *= 30
    x = torch.randn(256, 8, dtype=DOUBLE)
    geometry, kind = geometry_of(model[0]), KINDS.load("svd")
    curvature = output_curvatures(model, ["0"], unlabelled([x]), score=drawn_class(0))["0"]
    moments = moments_of_rows(input_rows(window_of(model[0]), x))
    evidence = Evidence(
        model[0].weight.detach(), model[0].bias.detach(), moments, model[0](x).mean(0).detach(), curvature=curvature
    )
    moved = {}
    for fit_by in (fit_activation, fit_kfac):
        fit = fit_by(kind, geometry, (4,), evidence)
        weight = compose(geometry, chain_of(kind, geometry, (4,)), fit.factors)
        with torch.no_grad():
            moved[fit_by] = divergence(model(x), model[1](x @ weight.mT + fit.bias))
    assert moved[fit_kfac] < 0.1 * moved[fit_activation]
