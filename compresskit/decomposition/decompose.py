"""The decompose step: survey, candidates, ranks, factors, report."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from ..analysis.measure.work import exact_costs, work_of
from ..analysis.reconstruction.blockwise import outcome_table
from ..analysis.reconstruction.fitting import Outcome
from ..analysis.reconstruction.floats import reconstruct_floats
from ..analysis.reconstruction.plan import plan_reconstruction
from ..analysis.sensitivity.divergence import OutputReference
from ..core.errors import InputError
from ..core.reporting.phases import counted, phase
from ..core.tensors.copying import copy_module
from ..core.tensors.modules import get_module, match_names, tensor_of
from ..core.types import Inputs, Loaded, to_device
from ..training.batchnorm import estimate_batchnorm
from ..training.context import Context, StepResult
from .explain import candidate_table, choice_table, compact_table, plot
from .fit.fit import fit_weight
from .fit.kfac import fit_kfac, whitened
from .methods.algebra import cp_sensitivity, cp_squared_norm
from .methods.geometry import geometry_of
from .methods.kinds import Ranks, seen
from .methods.lstm import KIND as LSTM_INPUT, decompose_lstms, is_plain_lstm
from .options import DecomposeOptions
from .ranks.candidates import Candidate, Layer, candidates_of
from .ranks.rank_selection import Totals, negligible, predicted_latency_share
from .ranks.sensitivity import measure_losses
from .ranks.timing import TimeTable, cheap_ranks, choose_faster, is_faster_in_place, move_into_model, time_candidates
from .surgery.find_layers import Site, survey
from .surgery.layers import install, recompose
from .surgery.surgery import WIDEST_COLUMNS, curvatures_for, evidence_for, replace_layers, takes_data
from .tables import KINDS, RANK_RULES

_BATCH = 64
_PROBE_SAMPLES = 128  # inputs on which each layer's effect on the whole model is measured


def decompose(loaded: Loaded, options: DecomposeOptions, context: Context) -> StepResult:
    """Replace layers of a model by chains of smaller layers, in place.

    Args:
        loaded: the model.
        options: kinds, objective, rank rule or budget.
        context: data for the data-aware choices, seed, device.
    Returns:
        the model with its edits; what was chosen for each layer, and what was left out and why.
    Raises:
        InputError: if a pattern matches no layer, nothing can be decomposed, or data is needed and there is none.
        GuardMissed: if a budget is out of reach.
    """
    if options.recompose:
        return merge_factors(loaded)
    loaded.module.to(context.device).eval()
    loaded.example = to_device(loaded.example, context.device)
    options = options if context.data is None else options.with_data()
    batches = _calibration(options, context)
    before = None if options.names_a_rule() else _outputs_before(loaded, context)
    sites, left_out = sites_for(loaded, options)
    totals = _totals(loaded)
    small = negligible(sites, options, totals)
    sites = [site for site in sites if site.name not in small]
    times = TimeTable(loaded.module, context.latency_batch, context.decisions)
    layers = _plan(loaded, sites, options, batches, times, context)
    choices, totals = _choose(loaded, layers, options, totals, times, context)
    predicted_share = predicted_latency_share(layers, choices, totals)
    remarks: list[str] = []
    plan = plan_reconstruction(loaded, options, context, remarks, worthwhile=not options.trains())
    whole = copy_module(loaded.module) if plan is not None else None
    errors = replace_layers(loaded, layers, choices, options, batches, context.seed, context.device)
    choices = [one if layer.site.name in errors else None for layer, one in zip(layers, choices, strict=True)]
    lstm_rows = []
    if options.lstms == "decompose":
        faster = partial(is_faster_in_place, loaded, batch=context.latency_batch, decisions=context.decisions)
        lstm_rows = decompose_lstms(loaded, options, faster if options.refuses_slower() else None)
    if options.norms == "reestimate":
        estimate_batchnorm(loaded.module, batches, context.device)
    outcomes: dict[str, Outcome] = {}
    if plan is not None and whole is not None and errors:
        outcomes = reconstruct_floats(whole, loaded, plan)
    result = _report(loaded, layers, choices, errors, left_out, totals, options, context)
    result.notes += remarks
    if small:
        result.notes.append(
            f"{len(small)} layers stay because all of them together hold too little of what the budget takes away: "
            f"{_few(small)}"
        )
    if outcomes:
        result.tables["reconstructed blocks"] = outcome_table(outcomes)
    if errors and not options.names_a_rule():
        moved = "" if before is None else f"; the model's outputs moved by {before.moved():.3g} (mean divergence)"
        result.notes.append(
            f"no budget was given: every layer keeps {options.energy:.0%} of its energy, whatever the model loses by "
            f"it{moved}; target_macs with data shares a budget out by what each layer's change costs the model"
        )
    if name := options.timed_target():
        result.facts[f"{name}_share_asked"] = options.targets()[name].share_of(totals.latency_ms)
    if predicted_share is not None:
        result.facts["latency_share_predicted"] = predicted_share
    if lstm_rows:
        result.tables["lstms"] = lstm_rows
        result.facts["lstm_layers_decomposed"] = sum(row["kind"] == LSTM_INPUT for row in lstm_rows)
    return result


@phase("calibrate")
def _calibration(options: DecomposeOptions, context: Context) -> list[Inputs]:
    if context.data is None:
        if options.uses_data():
            asks = f"objective {options.objective!r}" if options.objective != "weight" else "norms or sensitivity"
            raise InputError(f"{asks} needs calibration data; name some with --data, or set objective to weight")
        return []
    wants = options.uses_data() or (options.rank_by == "budget" and options.sensitivity != "layer")
    if not wants:
        return []
    return context.calibration_batches(options.calibration_samples, batch_size=_BATCH)


def _outputs_before(loaded: Loaded, context: Context) -> OutputReference | None:
    if context.data is None:
        return None
    inputs = context.calibration_batches(_PROBE_SAMPLES, batch_size=_BATCH)
    return OutputReference(loaded.module, inputs, context.device)


def sites_for(loaded: Loaded, options: DecomposeOptions) -> tuple[list[Site], dict[str, str]]:
    """The layers that the options let be decomposed, and the others with the reason why not.

    Raises:
        InputError: if none is left, or a pattern matches no layer.
    """
    sites, left_out = survey(loaded)
    lstms = [name for name, module in loaded.module.named_modules() if name and is_plain_lstm(module)]
    return _select(sites, left_out, lstms, options)


def _select(
    sites: list[Site], left_out: dict[str, str], lstms: list[str], options: DecomposeOptions
) -> tuple[list[Site], dict[str, str]]:
    names = [site.name for site in sites] + lstms
    wanted = match_names(options.layers, names) if options.layers else names
    if options.rank_by == "given":
        ranked = match_names(options.ranks, names)
        wanted = [name for name in wanted if name in ranked]
    skipped = match_names(options.skip, names)
    kept, left_out = [], dict(left_out)
    for site in sites:
        if site.name in skipped or site.name not in wanted:
            left_out[site.name] = "the options leave it out"
        elif site.geometry.form == "embedding" and options.embeddings == "keep":
            left_out[site.name] = "embeddings are kept; set embeddings to decompose"
        else:
            kept.append(site)
    if options.lstms == "keep":
        left_out |= dict.fromkeys(lstms, "LSTMs are kept; set lstms to decompose")
    if not kept and (not lstms or options.lstms == "keep"):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise InputError(f"no layer can be decomposed ({reasons or 'no linear layer or convolution of a plain type'})")
    return kept, left_out


def _totals(loaded: Loaded) -> Totals:
    floats = [parameter.element_size() for parameter in loaded.module.parameters()]
    return Totals(work_of(loaded), sum(floats) / max(len(floats), 1))


@phase("choose")
def _plan(
    loaded: Loaded,
    sites: list[Site],
    options: DecomposeOptions,
    batches: list[Inputs],
    times: TimeTable,
    context: Context,
) -> list[Layer]:
    """The candidates of every layer, with the loss that a budget minimizes."""
    measured = options.rank_by == "budget" and options.sensitivity != "layer" and bool(batches)
    root = loaded.module
    probe = batches[: max(_PROBE_SAMPLES // _BATCH, 1)]
    reference = OutputReference(root, probe, context.device) if measured else None
    by_name: dict[str, Layer] = {}
    curvatures = curvatures_for(root, sites, options, batches, context.seed, context.device)
    evidences = evidence_for(root, sites, options, batches, context.seed, context.device)
    for number, (site, evidence) in enumerate(evidences, 1):
        layer = by_name[site.name] = Layer(site)
        if evidence.moments is not None:
            layer.curvature = evidence.curvature = curvatures.get(site.name)
        judged = whitened(site.geometry, evidence)

        def faster(kind: str, choices: list[Ranks], layer: Layer = layer) -> list[Ranks]:
            # without a budget in time only cheap ones are ever chosen, so that no other needs to be fitted or timed
            worth = choices if options.timed_target() else cheap_ranks(layer.site, kind, choices)
            kept = times.faster(layer.site, kind, worth) if worth else []
            layer.slower += len(choices) - len(kept)
            return kept

        layer.candidates = candidates_of(site, judged, options, faster if _must_be_faster(site, options) else None)
        layer.begun = evidence.begun
        counted(number, len(sites), f"{site.name}: {len(layer.candidates)} candidates")
        if reference is None or not layer.candidates:
            continue

        def stand_in(one: Candidate, site: Site = site, evidence=evidence) -> nn.Module:
            fit_by = fit_weight if evidence.moments is None else fit_kfac
            fit = fit_by(KINDS.load(one.kind), site.geometry, one.ranks, evidence)
            holder = nn.Module()
            holder.layer = get_module(root, site.name)
            bias = fit.bias if site.geometry.bias or evidence.moments is not None else None
            install(holder, "layer", one.kind, one.ranks, fit.factors, bias)
            return holder.layer

        measure_losses(reference, layer, stand_in)
    return [by_name[site.name] for site in sites]


def _must_be_faster(site: Site, options: DecomposeOptions) -> bool:
    """An embedding is a table look-up, which nothing beats: asked for, it gets smaller and slower."""
    asked_for = site.geometry.form == "embedding" and options.slower_layers == "auto"
    return options.timed_target() is not None or (options.refuses_slower() and not asked_for)


@phase("choose")
def _choose(
    loaded: Loaded, layers: list[Layer], options: DecomposeOptions, totals: Totals, times: TimeTable, context: Context
) -> tuple[list[Candidate | None], Totals]:
    """The choice for each layer, and the totals with the model's latency where times were needed."""
    rule = RANK_RULES.load(options.rank_by)
    timed = [layer for layer in layers if _must_be_faster(layer.site, options)]
    if not timed:
        return rule(layers, options, totals), totals
    if options.timed_target():
        for number, layer in enumerate(timed):
            counted(number, len(timed), f"timing {layer.site.name}")
            time_candidates(layer, times.time)
    else:
        context.log("choosing, and timing what is chosen")
        choose_faster(lambda: rule(layers, options, totals), layers, timed, times.time)
    totals = replace(totals, latency_ms=move_into_model(loaded, layers, context.latency_batch, context.decisions))
    return rule(layers, options, totals), totals


def _report(
    loaded: Loaded,
    layers: list[Layer],
    choices: list[Candidate | None],
    errors: dict[str, float],
    left_out: dict[str, str],
    totals: Totals,
    options: DecomposeOptions,
    context: Context,
) -> StepResult:
    costs = options.exact_costs()
    before, after = exact_costs(totals.work, costs), exact_costs(work_of(loaded), costs)
    facts = {
        "layers_decomposed": len(errors), "layers_considered": len(layers),
        "kinds": dict(sorted(Counter(one.kind for one in choices if one is not None).items())),
        **{f"{name}_share": after[name] / figure if figure else 1.0 for name, figure in before.items()},
        "mean_relative_error": sum(errors.values()) / len(errors) if errors else 0.0,
        "rank_by": options.rank_by, "objective": options.objective,
    }  # fmt: skip
    tables = {"choices": choice_table(layers, choices)}
    for row in tables["choices"]:
        row["fitted_error"] = round(errors[row["layer"]], 4) if row["layer"] in errors else None
    facts["cp_sensitivity"] = _cp_sensitivities(loaded, layers, choices)
    if options.explain:
        tables["candidates"] = compact_table(layers, choices)
        facts["candidates"] = candidate_table(layers, choices)
    notes = [
        f"{name} left as it is: {reason}" for name, reason in left_out.items() if reason != "the options leave it out"
    ]
    notes += [
        f"{layer.site.name} is too wide to fit to data ({WIDEST_COLUMNS} inputs at most); fitted to its weights"
        for layer in layers if options.objective != "weight" and layer.site.geometry.form != "embedding"
        and not takes_data(layer.site, options)
    ]  # fmt: skip
    dearer = [layer.site.name for layer in layers if not layer.candidates and not layer.slower]
    if dearer:
        notes.append(f"{len(dearer)} layers have no rank at which they cost less and stay: {_few(dearer)}")
    slower = [layer.site.name for layer in layers if not layer.candidates and layer.slower]
    if slower:
        notes.append(
            f"{len(slower)} layers stay because nothing saves a quarter of their MACs without being measured to be "
            f"slower: {_few(slower)}; slower_layers allow replaces them all the same"
        )
    if not errors:
        notes.append(
            "no layer was replaced: none meets the rule at a lower cost; loosen energy, max_error or the target"
        )
    files = {}
    if options.plot and context.folder is not None:
        files["decomposition.png"] = context.folder / "decomposition.png"
        plot(layers, choices, files["decomposition.png"])
    return StepResult(loaded, facts, notes, tables, files)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _cp_sensitivities(loaded: Loaded, layers: list[Layer], choices: list[Candidate | None]) -> dict[str, float]:
    """For each layer decomposed by cp, the largest of its groups' sensitivities relative to the squared norm."""
    found = {}
    for layer, one in zip(layers, choices, strict=True):
        if one is not None and one.kind == "cp":
            chain = list(get_module(loaded.module, layer.site.name).children())
            links = [(geometry_of(own), tensor_of(own).detach()) for own in chain]
            seen_weights = [seen(link, weight) for link, weight in links if link is not None]
            groups = [weight.double().flatten(1).chunk(layer.site.geometry.groups) for weight in seen_weights]
            found[layer.site.name] = round(max(map(_cp_sensitivity, *groups)), 3)
    return found


def _cp_sensitivity(first: Tensor, middle: Tensor, last: Tensor) -> float:
    factors = [last, first.mT, middle.mT]
    return cp_sensitivity(factors) / max(cp_squared_norm(factors), 1e-30)


def merge_factors(loaded: Loaded) -> StepResult:
    """Merge the factors of earlier steps back into plain layers, in place.

    Raises:
        InputError: if there are none.
    """
    before = copy.copy(loaded.edits)
    merged = recompose(loaded.module, loaded.edits)
    if not merged:
        raise InputError("recompose: the model has no factored layers; decompose it first")
    loaded.edits = [*before, *merged]
    for edit in merged:
        for name in [name for name in loaded.storage if name.startswith(f"{edit['target']}.")]:
            loaded.storage.pop(name)
    table = [{"layer": edit["target"], **{k: v for k, v in edit["layer"].items() if k != "form"}} for edit in merged]
    return StepResult(loaded, {"layers_merged": len(merged)}, [], {"merged": table})
