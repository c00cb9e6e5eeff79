"""Data-aware factors: optimal on the calibration data, unbiased, and better behind a ReLU when fitted behind it."""

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.im2col import input_rows, output_rows, window_of
from compresskit.analysis.calibration.moments import moments_of_rows
from compresskit.decomposition.fit.fit import Evidence, fit_activation, fit_nonlinear, fit_weight, relu_auxiliary
from compresskit.decomposition.methods.geometry import geometry_of
from compresskit.decomposition.methods.kinds import chain_of, compose, rows_of
from compresskit.decomposition.tables import KINDS

DOUBLE = torch.float64


def _inputs(*shape):
    """Correlated, off-centre inputs: white ones would hide the difference between weights and outputs."""
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(shape, generator=g, dtype=DOUBLE)
    mix = torch.randn(shape[1], shape[1], generator=g, dtype=DOUBLE) * torch.logspace(0, -2, shape[1], dtype=DOUBLE)
    return torch.einsum("bi...,ij->bj...", noise, mix) + 0.5


def _evidence(layer, x, relu=False):
    geometry = geometry_of(layer)
    torch.manual_seed(1)
    layer.reset_parameters()
    y = layer(x).detach()
    inputs, outputs = input_rows(window_of(layer), x), output_rows(window_of(layer), y)
    bias = torch.zeros(geometry.out_channels, dtype=DOUBLE) if layer.bias is None else layer.bias.detach()
    return (
        geometry,
        y,
        Evidence(layer.weight.detach(), bias, moments_of_rows(inputs), outputs.mean(0), inputs, outputs, relu=relu),
    )


LAYERS = {
    "linear": (nn.Linear(8, 6), (50, 8)),
    "conv2d-dilated-strided": (nn.Conv2d(4, 6, 3, 2, 2, dilation=2, bias=False), (4, 4, 9, 8)),
    "conv2d-grouped-same": (nn.Conv2d(4, 6, (3, 5), padding="same", groups=2), (4, 4, 9, 8)),
    "conv1d-circular": (nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (6, 4, 9)),
    "conv2d-transposed": (nn.ConvTranspose2d(4, 6, (3, 4), (2, 3), (1, 2), (1, 2), dilation=(2, 1)), (4, 4, 5, 4)),
    "conv1d-transposed-grouped": (nn.ConvTranspose1d(4, 6, 3, 2, groups=2, bias=False), (6, 4, 9)),
    "conv3d": (nn.Conv3d(3, 4, 3, padding=1), (2, 3, 5, 6, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_are_the_layers_outputs(name):
    layer, shape = LAYERS[name]
    layer, x = layer.double(), _inputs(*shape)
    geometry, y, evidence = _evidence(layer, x)
    groups = rows_of(geometry, evidence.target).chunk(geometry.groups)
    product = torch.cat([evidence.inputs[:, g] @ part.mT for g, part in enumerate(groups)], 1) + evidence.bias
    torch.testing.assert_close(product, evidence.outputs)
    some = torch.tensor([5, 0, 3])
    torch.testing.assert_close(input_rows(window_of(layer), x, some), evidence.inputs[some])
    torch.testing.assert_close(output_rows(window_of(layer), y, some), evidence.outputs[some])


def _output_error(geometry, kind, ranks, fit, evidence):
    weight = rows_of(geometry, compose(geometry, chain_of(kind, geometry, ranks), fit.factors))
    parts = [evidence.inputs[:, g] @ part.mT for g, part in enumerate(weight.chunk(geometry.groups))]
    return (torch.cat(parts, 1) + fit.bias - evidence.outputs).square().sum().item()


@pytest.mark.parametrize(
    "name",
    [
        "linear", "conv2d-dilated-strided", "conv2d-grouped-same", "conv1d-circular", "conv2d-transposed",
        "conv1d-transposed-grouped",
    ],
)  # fmt: skip
def test_svd_fitted_to_data_is_optimal_in_output_error(name):
    layer, shape = LAYERS[name]
    layer = layer.double()
    geometry, _, evidence = _evidence(layer, _inputs(*shape))
    kind = KINDS.load("svd" if name == "linear" else "channel-svd")
    fit = fit_activation(kind, geometry, (2,), evidence)
    ours = _output_error(geometry, kind, (2,), fit, evidence)
    # no affine map of rank 2 a group can do better than the tail of the centred outputs' singular values
    centred = evidence.outputs - evidence.outputs.mean(0)
    tails = [torch.linalg.svdvals(part)[2:].square().sum() for part in centred.chunk(geometry.groups, 1)]
    assert ours == pytest.approx(sum(tails).item(), rel=1e-6)
    assert ours < 0.9 * _output_error(geometry, kind, (2,), fit_weight(kind, geometry, (2,), evidence), evidence)
    assert fit.error == pytest.approx((ours / centred.square().sum().item()) ** 0.5, rel=1e-6)


def test_principal_outputs_equal_the_cholesky_whitened_svd():
    layer = LAYERS["linear"][0].double()
    geometry, _, evidence = _evidence(layer, _inputs(50, 8))
    fit = fit_activation(KINDS.load("svd"), geometry, (3,), evidence)
    ours = compose(geometry, chain_of(KINDS.load("svd"), geometry, (3,)), fit.factors)
    root = torch.linalg.cholesky(evidence.moments.covariance[0])
    u, s, vh = torch.linalg.svd(evidence.target @ root)
    whitened = (u[:, :3] * s[:3]) @ vh[:3] @ torch.linalg.inv(root)
    torch.testing.assert_close(ours, whitened, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("kind_name", "ranks", "make"),
    [
        *(
            (kind, ranks, lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False))
            for kind, ranks in {
                "input-svd": (2,), "spatial-svd": (4,), "tucker2": (3, 3), "tensor-train": (3, 6, 3), "cp": (5,),
            }.items()
        ),
        ("tucker2", (3, 3), lambda: nn.ConvTranspose2d(4, 6, 3, 2, bias=False)),
        ("spatial-svd", (2,), lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)),
    ],
)  # fmt: skip
def test_other_kinds_gain_from_data(kind_name, ranks, make):
    layer = make().double()
    geometry, _, evidence = _evidence(layer, _inputs(4, 4, 9, 8))
    kind = KINDS.load(kind_name)
    plain = _output_error(geometry, kind, ranks, fit_weight(kind, geometry, ranks, evidence), evidence)
    fitted = _output_error(geometry, kind, ranks, fit_activation(kind, geometry, ranks, evidence), evidence)
    assert fitted < 0.8 * plain


def test_a_tensor_train_of_a_linear_layer_gains_from_data():
    layer = nn.Linear(12, 8).double()
    geometry, _, evidence = _evidence(layer, _inputs(50, 12))
    kind = KINDS.load("tensor-train")
    plain = _output_error(geometry, kind, (3,), fit_weight(kind, geometry, (3,), evidence), evidence)
    assert _output_error(geometry, kind, (3,), fit_activation(kind, geometry, (3,), evidence), evidence) < 0.8 * plain


def test_relu_auxiliary_minimizes_its_cost():
    response = torch.linspace(-3, 3, 13, dtype=DOUBLE)
    z = torch.linspace(-6, 6, 24001, dtype=DOUBLE)
    for wanted in (0.0, 0.7, 2.0):
        for penalty in (0.01, 1.0):
            target = torch.full_like(response, wanted)

            def cost(value, response=response, wanted=wanted, penalty=penalty):
                return (wanted - value.clamp_min(0)).square() + penalty * (value - response).square()

            brute = (
                (wanted - z.clamp_min(0)).square()[:, None] + penalty * (z[:, None] - response).square()
            ).min(0).values  # fmt: skip
            assert (cost(relu_auxiliary(target, response, penalty)) <= brute + 1e-6).all()


@pytest.mark.parametrize(
    ("kind_name", "make"),
    [
        ("channel-svd", lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False)),
        ("input-svd", lambda: nn.ConvTranspose2d(6, 8, 3, 2, padding=1, bias=False)),
    ],
)
def test_fitting_behind_the_relu_beats_fitting_before_it(kind_name, make):
    layer = make().double()
    geometry, _, evidence = _evidence(layer, _inputs(6, 6, 9, 8), relu=True)
    evidence.scale = torch.linspace(0.5, 2, 8, dtype=DOUBLE)
    evidence.shift = torch.linspace(-0.5, 0.5, 8, dtype=DOUBLE) - evidence.scale * evidence.outputs.mean(0)
    kind = KINDS.load(kind_name)

    def behind(fit):
        weight = rows_of(geometry, compose(geometry, chain_of(kind, geometry, (2,)), fit.factors))
        got, wanted = evidence.inputs[:, 0] @ weight.mT + fit.bias, evidence.outputs
        scaled = [(y * evidence.scale + evidence.shift).clamp_min(0) for y in (got, wanted)]
        return (scaled[0] - scaled[1]).square().sum().item()

    linear = behind(fit_activation(kind, geometry, (2,), evidence))
    assert behind(fit_nonlinear(kind, geometry, (2,), evidence)) < 0.97 * linear
    evidence.relu = False
    assert behind(fit_nonlinear(kind, geometry, (2,), evidence)) == pytest.approx(linear)
