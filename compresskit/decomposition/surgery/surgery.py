"""Putting the chosen factors into the model: all layers at once, or one after the other in calling order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.moments import Moments, moments_of_rows
from ...analysis.sensitivity.channels import drawn_class, output_curvatures, unlabelled
from ...artifact.edits import leave_fused_paths
from ...core.reporting.phases import counted, phase
from ...core.tensors.copying import copy_module
from ...core.tensors.modules import bias_of, get_module, tensor_of
from ...core.types import Inputs, Loaded, to_device
from ...training.batchnorm import channel_scale
from ..fit.fit import Evidence, Fit
from ..fit.layer_inputs import batches_of_sites, collect_moments, samples
from ..fit.least_squares import regression
from ..methods.kinds import rows_of, weight_of_rows
from ..options import DecomposeOptions
from ..ranks.candidates import Candidate, Layer
from ..tables import KINDS, OBJECTIVES
from .find_layers import Site
from .layers import chain_with_bias, install
from .layers_in_turn import inputs_and_outputs

WIDEST_COLUMNS = 8192  # a covariance of more columns would take gigabytes; such layers are fitted to their weights
_DOUBLE_ELEMENTS = 2_000_000  # larger weights are factored in float32: in float64 that would take minutes


def weight_evidence(root: nn.Module, site: Site) -> Evidence:
    """What is known of a layer without data."""
    layer = get_module(root, site.name)
    weight = tensor_of(layer).detach()
    weight = weight.to(torch.float64 if weight.numel() <= _DOUBLE_ELEMENTS else torch.float32)
    bias = getattr(layer, "bias", None)
    zeros = weight.new_zeros(site.geometry.out_channels)
    return Evidence(weight, zeros if bias is None else bias.detach().to(weight))


def data_evidence(root: nn.Module, site: Site, moments: Moments) -> Evidence:
    """What is known of a layer from the moments of its inputs in the original model."""
    evidence = weight_evidence(root, site)
    evidence.target = evidence.target.to(moments.mean.dtype)
    evidence.bias = evidence.bias.to(moments.mean.dtype)
    parts = rows_of(site.geometry, evidence.target).chunk(site.geometry.groups)
    outputs = [part @ mean for part, mean in zip(parts, moments.mean, strict=True)]
    evidence.moments, evidence.mean_output = moments, torch.cat(outputs) + evidence.bias
    return evidence


def takes_data(site: Site, options: DecomposeOptions) -> bool:
    """Whether a layer's factors are fitted to data; embeddings and very wide layers are not."""
    fits = site.geometry.form != "embedding" and site.geometry.columns <= WIDEST_COLUMNS
    return options.objective != "weight" and fits


def evidence_for(
    root: nn.Module,
    sites: list[Site],
    options: DecomposeOptions,
    batches: list[Inputs],
    seed: int,
    device: torch.device,
) -> Iterator[tuple[Site, Evidence]]:
    """Each site with its evidence from the model as it is, a few sites' covariances in memory at a time."""
    with_data = [site for site in sites if takes_data(site, options)]
    for site in sites:
        if not takes_data(site, options):
            yield site, weight_evidence(root, site)
    for run in batches_of_sites(with_data):
        moments = collect_moments(root, run, batches, rows=options.calibration_rows, seed=seed, device=device)
        for site in run:
            reached = site.name in moments
            yield site, data_evidence(root, site, moments.pop(site.name)) if reached else weight_evidence(root, site)


def curvatures_for(
    root: nn.Module,
    sites: list[Site],
    options: DecomposeOptions,
    batches: list[Inputs],
    seed: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """By layer, how much the prediction depends on each direction of its outputs, where the objective asks for it."""
    if options.objective != "kfac":
        return {}
    names = [site.name for site in sites if takes_data(site, options)]
    given = unlabelled(to_device(one, device) for one in batches)
    return output_curvatures(root, names, given, score=drawn_class(seed))


@phase("cut")
def replace_layers(
    loaded: Loaded,
    layers: list[Layer],
    choices: list[Candidate | None],
    options: DecomposeOptions,
    batches: list[Inputs],
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Replace every layer that has a choice, in place, appending the edits.

    Returns:
        layer name -> relative error of the fitted factors, of the layers really replaced.
    """
    chosen = {layer.site.name: (layer.site, one) for layer, one in zip(layers, choices, strict=True) if one is not None}
    reference = copy_module(loaded.module)
    loaded.edits.extend(leave_fused_paths(loaded.module, list(chosen)))
    stepwise = options.objective == "nonlinear" or options.inputs == "compressed"
    errors: dict[str, float] = {}

    by_name = {layer.site.name: layer for layer in layers}

    def put(site: Site, one: Candidate, evidence: Evidence) -> None:
        evidence.begun |= by_name[site.name].begun
        evidence.curvature = by_name[site.name].curvature
        objective = options.objective if evidence.moments is not None else "weight"
        fit = OBJECTIVES.load(objective)(KINDS.load(one.kind), site.geometry, one.ranks, evidence)
        edit = put_factors(loaded.module, site, one, fit, fitted_to_data=evidence.moments is not None)
        if edit is not None:
            loaded.edits.append(edit)
            loaded.storage.pop(f"{site.name}.weight", None)
            errors[site.name] = fit.error

    sites = [site for site, _ in chosen.values()]
    together = [site for site in sites if not (stepwise and takes_data(site, options))]
    one_by_one = [site for site in sites if stepwise and takes_data(site, options)]
    for site, evidence in evidence_for(reference, together, options, batches, seed, device):
        put(site, chosen[site.name][1], evidence)
    compressed = options.inputs == "compressed"
    in_turn = inputs_and_outputs(loaded, reference, one_by_one, batches, device, compressed=compressed)
    for number, (site, pairs) in enumerate(in_turn, 1):
        counted(number, len(one_by_one), site.name)
        limit = max(options.calibration_rows // max(len(batches) * len(site.calls), 1), 1)
        inputs, outputs = samples(pairs, get_module(reference, site.name), limit, seed)
        put(site, chosen[site.name][1], sampled_evidence(reference, site, inputs, outputs, compressed=compressed))
    return errors


def put_factors(
    root: nn.Module, site: Site, one: Candidate, fit: Fit, *, fitted_to_data: bool
) -> dict[str, Any] | None:
    """Install a fit in the place of a layer; None, and nothing done, if its bias would make the layer larger.

    A bias that the layer did not have goes into the running mean of the batch normalization behind it, if there is one.
    """
    bias = fit.bias if site.geometry.bias or fitted_to_data else None
    if fitted_to_data and not site.geometry.bias and site.norm is not None:
        running_mean = get_module(root, site.norm).get_buffer("running_mean")
        running_mean.sub_(fit.bias.to(running_mean))
        bias = None
    elif not site.saves(chain_with_bias(one.kind, site.geometry, one.ranks, bias is not None)):
        return None
    return install(root, site.name, one.kind, one.ranks, fit.factors, bias)


def sampled_evidence(
    reference: nn.Module, site: Site, inputs: Tensor, outputs: Tensor, *, compressed: bool
) -> Evidence:
    """Evidence with matching rows: inputs that arrive, and outputs wanted from the reference.

    Where the inputs come from the compressed model, the target becomes the linear map from them to the outputs wanted
    (asymmetric reconstruction).

    Source: Zhang et al., TPAMI 2016, section 3.3.
    """
    evidence = weight_evidence(reference, site)
    moments = moments_of_rows(inputs)
    start = rows_of(site.geometry, evidence.target).to(inputs)
    if compressed:
        start = regression(inputs, outputs, moments, start)
    evidence.target, evidence.bias = weight_of_rows(site.geometry, start), evidence.bias.to(inputs)
    evidence.moments, evidence.mean_output = moments, outputs.mean(0)
    evidence.inputs, evidence.outputs, evidence.relu = inputs, outputs, site.relu
    if site.norm is not None:
        evidence.scale, evidence.shift = _affine(get_module(reference, site.norm), inputs)
    return evidence


def _affine(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """A batch normalization in eval mode as (scale, shift)."""
    scale = channel_scale(norm).to(like)
    shift, bias = -norm.get_buffer("running_mean").to(like) * scale, bias_of(norm)
    return scale, shift if bias is None else shift + bias.detach().to(like)
