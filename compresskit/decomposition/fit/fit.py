"""Fitting a chain's factors: to the weights, to a layer's outputs, or to what its activation lets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...analysis.calibration.moments import Moments
from ..methods.geometry import Geometry
from ..methods.kinds import (
    Kind,
    Ranks,
    chain_of,
    compose,
    factors_of,
    join_groups,
    rows_of,
    seen,
    split_groups,
    weight_of_rows,
    widened_factors,
)
from .least_squares import regression


@dataclass
class Evidence:
    """What is known of one layer's task.

    Attributes:
        target: the map to approximate, shaped like the layer's weight.
        bias: (out,) the layer's own bias, zeros if it has none.
        moments: of the inputs; None without data.
        mean_output: (out,) what the layer should return on average; None without data.
        inputs, outputs: matching rows (rows, groups, columns) and (rows, out), where the objective needs them.
        scale, shift: (out,) of the normalization between layer and activation.
        relu: whether a ReLU comes next.
        curvature: (out, out) covariance of the prediction's gradient at the outputs, where the objective needs it.
        known: fits found so far, so that none is made twice; (what, kind, ranks) -> result.
        begun: factors of kinds that can widen, of this target or one near it; (kind, ranks) -> factors.
    """

    target: Tensor
    bias: Tensor
    moments: Moments | None = None
    mean_output: Tensor | None = None
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    relu: bool = False
    curvature: Tensor | None = None
    known: dict[tuple, Any] = field(default_factory=dict)
    begun: dict[tuple[Kind, Ranks], list[Tensor]] = field(default_factory=dict)

    def within(self, kind: Kind, ranks: Ranks) -> list[Ranks]:
        """Ranks up to these at which factors of a kind are known."""
        pairs = ((own, zip(own, ranks, strict=True)) for other, own in self.begun if other is kind)
        return [own for own, both in pairs if all(one <= other for one, other in both)]

    def of_data(self) -> tuple[Moments, Tensor]:
        """Moments of the inputs and the average output.

        Raises:
            TypeError: where they were not measured, for want of data.
        """
        if self.moments is None or self.mean_output is None:
            raise TypeError("the layer's inputs were not measured")
        return self.moments, self.mean_output

    def once(self, what: str, kind: Kind, ranks: Ranks, make: Callable[[], Any]) -> Any:
        """What `make` returns, made at the first call only."""
        key = (what, kind, ranks)
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]


@dataclass
class Fit:
    """Factors of a layer.

    Attributes:
        factors: the links' weights in calling order.
        bias: (out,) for the last link.
        error: relative error, the root of the unexplained share of the target's variance (or squared norm).
    """

    factors: list[Tensor]
    bias: Tensor
    error: float


def fit_weight(kind: Kind, layer: Geometry, ranks: Ranks, evidence: Evidence) -> Fit:
    """Best factors of the weights in the Frobenius norm; the bias stays."""
    factors = weight_factors(kind, layer, ranks, evidence)
    approximation = compose(layer, chain_of(kind, layer, ranks), factors)
    return Fit(factors, evidence.bias, relative_error(layer, evidence.target, approximation, None))


def weight_factors(kind: Kind, layer: Geometry, ranks: Ranks, evidence: Evidence) -> list[Tensor]:
    """The factors of the target that are best in the Frobenius norm, as the links hold them.

    A kind that can widen goes on from the largest ranks up to these that are known.
    """

    def make() -> list[Tensor]:
        known = [] if kind.widen is None else evidence.within(kind, ranks)
        if not known:
            return factors_of(kind, layer, evidence.target, ranks)
        return widened_factors(kind, layer, evidence.target, ranks, max(known), evidence.begun[kind, max(known)])

    factors = evidence.once("weight", kind, ranks, make)
    if kind.widen is not None:
        evidence.begun[kind, ranks] = factors
    return factors


def fit_activation(kind: Kind, layer: Geometry, ranks: Ranks, evidence: Evidence) -> Fit:
    """Factors and bias of least squared error in the layer's outputs.

    Where the last link spans the outputs (svd, channel-svd) this is the optimum: the outputs' principal directions,
    the same subspace as the SVD of the weight times a Cholesky factor of the inputs' covariance. For the other
    kinds, quasi-Newton steps start from the factors of the weights.

    Source: Zhang et al., "Accelerating very deep convolutional networks for classification and detection", TPAMI 2016,
        eq. 4; Wang et al., "SVD-LLM: truncation-aware singular value decomposition", 2024, section 3.1.
    """
    return evidence.once("activation", kind, ranks, lambda: _fit_activation(kind, layer, ranks, evidence))


def _fit_activation(kind: Kind, layer: Geometry, ranks: Ranks, evidence: Evidence) -> Fit:
    moments, mean_output = evidence.of_data()
    covariance = moments.covariance
    chain = chain_of(kind, layer, ranks)
    parts = split_groups(layer, evidence.target)
    if kind.output_side:
        solved = [_principal_outputs(part, ranks[0], own) for part, own in zip(parts, covariance, strict=True)]
    else:
        whole = weight_factors(kind, layer, ranks, evidence)
        begun = [seen(link, factor).chunk(layer.groups) for link, factor in zip(chain, whole, strict=True)]
        solved = [
            _refine(kind, layer.one_group(), part, ranks, own, list(start))
            for part, own, start in zip(parts, covariance, zip(*begun, strict=True), strict=True)
        ]
    factors = join_groups(layer, chain, solved)
    approximation = compose(layer, chain, factors)
    parts = split_groups(layer, approximation)
    means = [part.flatten(1) @ own for part, own in zip(parts, moments.mean, strict=True)]
    return Fit(
        factors,
        mean_output - torch.cat(means),
        relative_error(layer, evidence.target, approximation, covariance),
    )


def _principal_outputs(weight: Tensor, rank: int, covariance: Tensor) -> list[Tensor]:
    flat = weight.flatten(1)
    directions = torch.linalg.eigh(flat @ covariance @ flat.mT)[1].flip(1)[:, :rank]
    right = (directions.mT @ flat).reshape(rank, *weight.shape[1:])
    return [right, directions.reshape(*directions.shape, *(1,) * (weight.dim() - 2))]


def _refine(
    kind: Kind, group: Geometry, weight: Tensor, ranks: Ranks, covariance: Tensor, start: list[Tensor], steps: int = 12
) -> list[Tensor]:
    """Quasi-Newton steps on all factors at once, minimizing the output error under an input covariance.

    Args:
        weight: (out, in, *kernel) of one group, as are the factors given and returned.
    """
    chain = chain_of(kind, group, ranks)
    begun = join_groups(group, chain, [start])
    factors = [factor.clone(memory_format=torch.contiguous_format).requires_grad_() for factor in begun]
    whole = ((weight.flatten(1) @ covariance) * weight.flatten(1)).sum().clamp_min(1e-30)
    optimizer = torch.optim.LBFGS(factors, max_iter=steps, history_size=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        gap = (seen(group, compose(group, chain, factors)) - weight).flatten(1)
        push = gap.detach() @ covariance
        # the quadratic form's gradient is known, so one product with the covariance serves value and gradient
        (gap * push * (2 / whole)).sum().backward()
        return (gap.detach() * push).sum() / whole

    before = loss().item()
    with torch.enable_grad():
        optimizer.step(loss)
    after = loss().item()
    kept = [factor.detach() for factor in factors] if after < before else begun
    return [seen(link, factor) for link, factor in zip(chain, kept, strict=True)]


def relative_error(layer: Geometry, target: Tensor, approximation: Tensor, covariance: Tensor | None) -> float:
    """Root of |(target - approximation) C^1/2|^2 / |target C^1/2|^2; C is the identity without data."""
    gap, whole = 0.0, 0.0
    groups = zip(split_groups(layer, target), split_groups(layer, approximation), strict=True)
    for group, (wanted, got) in enumerate(groups):
        for difference, which in ((wanted - got, "gap"), (wanted, "whole")):
            flat = difference.flatten(1)
            pushed = flat if covariance is None else flat @ covariance[group]
            size = (flat * pushed).sum().item()
            gap, whole = (gap + size, whole) if which == "gap" else (gap, whole + size)
    return (max(gap, 0.0) / max(whole, 1e-30)) ** 0.5


_PENALTIES = (0.01, 0.01, 0.01, 1.0, 1.0, 1.0)  # first loose, then binding, as in the paper


def fit_nonlinear(kind: Kind, layer: Geometry, ranks: Ranks, evidence: Evidence) -> Fit:
    """Factors of least squared error behind the ReLU that follows; `fit_activation` where none does.

    In turn: for each response the auxiliary value that trades the error behind the ReLU against the distance to the
    chain's response, in closed form; then factors fitted to the auxiliary values.

    Source: Zhang et al., TPAMI 2016, eqs. 7 to 9.
    """
    linear = fit_activation(kind, layer, ranks, evidence)
    chain = chain_of(kind, layer, ranks)
    moments, _ = evidence.of_data()
    if not evidence.relu or evidence.inputs is None or evidence.outputs is None or chain[-1].form == "folded":
        return linear
    scale = torch.ones_like(evidence.bias) if evidence.scale is None else evidence.scale
    shift = torch.zeros_like(evidence.bias) if evidence.shift is None else evidence.shift
    wanted = (evidence.outputs * scale + shift).clamp_min(0)
    best, best_loss = linear, _loss_behind_relu(layer, chain, linear, evidence, scale, shift, wanted)
    current = linear
    for penalty in _PENALTIES:
        response = _responses(layer, chain, current, evidence) * scale + shift
        auxiliary = relu_auxiliary(wanted, response, penalty)
        # fitted where the error counts: behind the normalization's scale, which the last factor then gives back
        start = rows_of(layer, compose(layer, chain, current.factors)) * scale[:, None]
        target = regression(evidence.inputs, auxiliary, moments, start)
        target = weight_of_rows(layer, target)
        scaled = replace(evidence, target=target, mean_output=auxiliary.mean(0), relu=False, known={})
        fitted = fit_activation(kind, layer, ranks, scaled)
        safe = torch.where(scale.abs() < 1e-6, torch.full_like(scale, 1e-6), scale)
        last = weight_of_rows(chain[-1], rows_of(chain[-1], fitted.factors[-1]) / safe[:, None])
        current = Fit([*fitted.factors[:-1], last], (fitted.bias - shift) / safe, linear.error)
        loss = _loss_behind_relu(layer, chain, current, evidence, scale, shift, wanted)
        if loss < best_loss:
            best, best_loss = current, loss
    return best


def relu_auxiliary(wanted: Tensor, response: Tensor, penalty: float) -> Tensor:
    """The z of least (wanted - relu(z))^2 + penalty (z - response)^2 for each element; `wanted` is behind the ReLU."""
    below = response.clamp_max(0)
    above = ((penalty * response + wanted) / (penalty + 1)).clamp_min(0)
    cost_below = wanted.square() + penalty * (below - response).square()
    cost_above = (wanted - above).square() + penalty * (above - response).square()
    return torch.where(cost_below < cost_above, below, above)


def _responses(layer: Geometry, chain: list[Geometry], fit: Fit, evidence: Evidence) -> Tensor:
    """(rows, out) of the chain on the sampled inputs."""
    weight = rows_of(layer, compose(layer, chain, fit.factors))
    inputs = evidence.inputs
    if inputs is None:
        raise TypeError("the inputs of the layer were not sampled")
    parts = [inputs[:, group] @ part.mT for group, part in enumerate(weight.chunk(inputs.shape[1]))]
    return torch.cat(parts, 1) + fit.bias


def _loss_behind_relu(
    layer, chain, fit: Fit, evidence: Evidence, scale: Tensor, shift: Tensor, wanted: Tensor
) -> float:
    response = (_responses(layer, chain, fit, evidence) * scale + shift).clamp_min(0)
    return (response - wanted).square().mean().item()
