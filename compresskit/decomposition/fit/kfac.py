"""Fitting a chain's factors to what the model's prediction loses by them, from covariances on both sides of a layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..methods.geometry import Geometry
from ..methods.kinds import Kind, Ranks, chain_of, compose, rows_of, weight_of_rows
from .fit import Evidence, Fit, fit_activation

#: share of its mean variance that is added to every direction of the gradient, which few examples leave without some
_DAMPING = 0.1


def fit_kfac(kind: Kind, layer: Geometry, ranks: Ranks, evidence: Evidence) -> Fit:
    """Factors and bias of least (W - V) C (W - V)^T weighted by G; C: covariance of inputs, G: of output gradients.

    G is that of the log probability of a class drawn from the model itself, so that the Kronecker product of C and G
    is the layer's block of the Fisher information: how much an error of its weights moves the prediction. For svd and
    channel-svd the factors are the truncated SVD of G^1/2 W C^1/2, with the roots divided out again.

    Source: Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015,
        eq. 4; Grosse & Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", ICML 2016.
    """
    chain = chain_of(kind, layer, ranks)
    if evidence.curvature is None or chain[-1].form == "folded":
        return fit_activation(kind, layer, ranks, evidence)
    white = whitened(layer, evidence)
    fitted = fit_activation(kind, layer, ranks, white)
    inverses = [torch.linalg.inv(root) for root in _roots(layer, evidence, evidence.curvature)]
    last = weight_of_rows(chain[-1], _apply(inverses, rows_of(chain[-1], fitted.factors[-1])))
    factors = [*fitted.factors[:-1], last.contiguous()]
    moments, mean_output = evidence.of_data()
    rows = rows_of(layer, compose(layer, chain, factors)).chunk(layer.groups)
    means = [part @ own for part, own in zip(rows, moments.mean, strict=True)]
    return Fit(factors, mean_output - torch.cat(means), fitted.error)


def whitened(layer: Geometry, evidence: Evidence) -> Evidence:
    """The task of a layer whose outputs are scaled by the root of their gradients' covariance; itself without one."""
    if evidence.curvature is None:
        return evidence
    key = ("whitened",)
    if key not in evidence.known:
        _, mean_output = evidence.of_data()
        roots = _roots(layer, evidence, evidence.curvature)
        target = weight_of_rows(layer, _apply(roots, rows_of(layer, evidence.target)))
        mean_output = _apply(roots, mean_output[:, None])[:, 0]
        evidence.known[key] = replace(
            evidence, target=target, mean_output=mean_output, curvature=None, known={}, begun={}
        )
    return evidence.known[key]


def _roots(layer: Geometry, evidence: Evidence, curvature: Tensor) -> list[Tensor]:
    """Symmetric roots of each group's own part of the covariance, damped and of unit mean square; found once."""
    key = ("roots",)
    if key in evidence.known:
        return evidence.known[key]
    found: list[Tensor] = []
    for channels in torch.arange(layer.out_channels, device=curvature.device).chunk(layer.groups):
        own = curvature[channels][:, channels]
        eye = torch.eye(len(own), dtype=own.dtype, device=own.device)
        mean = own.diagonal().mean()
        own = own / mean if mean > 0 else eye
        values, vectors = torch.linalg.eigh((own + _DAMPING * eye) / (1 + _DAMPING))
        found.append((vectors * values.sqrt()) @ vectors.mT)
    evidence.known[key] = found
    return found


def _apply(maps: list[Tensor], rows: Tensor) -> Tensor:
    """The product of each group's map with its rows, (out, columns)."""
    parts = zip(maps, rows.chunk(len(maps)), strict=True)
    return torch.cat([own.to(part) @ part for own, part in parts])
