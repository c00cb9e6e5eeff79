"""Structured pruning: whole channels, heads and groups go, and the cut is proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...analysis.calibration.block_walk.blocks import find_blocks
from ...analysis.measure.work import exact_costs, whole_figure
from ...analysis.reconstruction.blockwise import outcome_table
from ...analysis.reconstruction.fitting import Outcome
from ...analysis.reconstruction.plan import plan_reconstruction
from ...core.costs import cost_of
from ...core.errors import InputError
from ...core.reporting.phases import phase
from ...core.tensors.copying import copy_module
from ...core.types import Loaded
from ...model.text_inputs import is_causal
from ...training.context import Context, StepResult
from ..allocation.allocation import (
    allocation_for,
    budget_notes,
    choose,
    counts,
    distinct,
    exact_budget,
    limits_for,
    missed_budgets,
    whole_counts,
    whole_groups_notes,
)
from ..allocation.measured_budget import meet_measured
from ..allocation.solved_widths import SolvedAllocation
from ..allocation.uniform_widths import UniformAllocation
from ..allocation.units import Limits
from ..dependency.cost import GraphWork, exact_macs
from ..dependency.graph import Graph, build_graph
from ..dependency.reasons import left_out_notes, shortened
from ..importance.calibration_statistics import Evidence
from ..importance.group_scores import evidence_for, score_groups
from ..importance.predicted_losses import predicted_losses
from ..importance.principal_axes import turn_to_axes
from ..options import PruneOptions
from ..recovery.blocks import reconstruct_cut
from ..recovery.recovery import has_quick_refit, refit_kind
from ..recovery.refit_trials import Refit, refitted_errors
from ..recovery.regularized_training import sparsify
from ..unstructured import prune_weights
from .block_pruning import prune_blocks
from .diagnostics import explain, sensitivity
from .experts.expert_alignment import align_experts
from .experts.expert_pruning import prune_experts
from .free_heads import free_heads
from .group_equivalence import Proof, proven
from .one_width import FREE, Ties, follow, proven_together, settled, ties_of, whole_groups, with_more
from .vocabulary import prune_vocabulary


def prune(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Prune a model in place.

    Args:
        loaded: the model.
        options: what, how much and by which criterion.
        context: data, seed, log.
    Returns:
        the pruned model with its edits, facts (exactness, achieved budget), and notes of what was left out.
    Raises:
        InputError: if nothing can be pruned, a pattern matches no layer, or a criterion lacks data.
    """
    if is_causal(loaded.module):
        options = options.for_causal_models()
    if options.granularity == "block":
        return prune_blocks(loaded, options, context)
    if options.granularity == "expert":
        return prune_experts(loaded, options, context)
    if options.granularity == "vocabulary":
        return prune_vocabulary(loaded, context)
    if options.granularity in ("weight", "n:m"):
        return prune_weights(loaded, options, context)
    if options.looks_only():
        return look(loaded, options, context)
    if options.schedule == "one-shot":
        return prune_channels(loaded, options, context)
    return prune_in_steps(loaded, options, context)


def prune_in_steps(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Cut along a schedule, with recovery between the cuts; a step too small for any group is passed over."""
    budgets = [
        (name, amount.value if amount.is_share else amount.share_of(whole_figure(name, loaded)))
        for name, amount in options.targets().items()
    ]
    final = budgets[0][1] if budgets else 1 - (options.ratio or 0.0)
    kept = dict.fromkeys(options.exact_costs(), 1.0)  # of each cost, over all cuts so far
    wanted_before, result = 1.0, None
    for number, wanted in enumerate(kept_shares(options.schedule, options.steps, final), 1):
        share = wanted / (kept[budgets[0][0]] if budgets else wanted_before)
        wanted_before = wanted
        if share >= 1:
            continue
        step = options.with_budget(budgets[0][0], share) if budgets else options.model_copy(update={"ratio": 1 - share})
        if result is not None and context.recover is not None:
            context.recover(loaded)
        try:
            found = prune_channels(loaded, step, context)
        except NothingRemoved:
            continue
        context.log(f"cut {number} of {options.steps}")
        kept = {name: share * found.facts[f"{name}_kept"] for name, share in kept.items()}
        if result is not None:
            found.facts["macs_before"] = result.facts["macs_before"]
            found.facts["largest_difference"] = max(
                found.facts["largest_difference"], result.facts["largest_difference"]
            )
        found.facts |= {f"{name}_kept": share for name, share in kept.items()}
        result = found
    if result is None:
        raise NothingRemoved(f"model {loaded.name!r}: nothing was removed in any of {options.steps} cuts")
    return result


def kept_shares(schedule: str, cuts: int, final: float) -> list[float]:
    """Share of the whole that is kept after each cut, growing less linearly or as 1 - (1 - t)^3.

    Source: Zhu & Gupta, "To Prune, or Not to Prune", 2017, eq. 1 (cubic).
    """
    progress = [cut / cuts for cut in range(1, cuts + 1)]
    if schedule == "cubic":
        progress = [1 - (1 - t) ** 3 for t in progress]
    return [1 - (1 - final) * t for t in progress]


class NothingRemoved(InputError):
    """No group could lose anything."""


def look(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Explain a layer's ties, or measure sensitivity; nothing is cut."""
    graph = build_graph(loaded.module, loaded.example, options.attention)
    if options.explain is not None:
        result = StepResult(loaded, *explain(graph, options.explain))
        blocks = find_blocks(loaded.module, loaded.example)
        result.facts["block"] = next((one.name for one in blocks if options.explain in one.layers), None)
        return result
    evidence = evidence_for(loaded, graph, options, context)
    return sensitivity(loaded, graph, score_groups(graph, evidence, options), context)


def prune_channels(loaded: Loaded, options: PruneOptions, context: Context) -> StepResult:
    """Granularity `channel`: real removal by groups."""
    loaded.edits += free_heads(loaded.module)
    align_experts(loaded, options.samples, context)
    graph = prunable_graph(loaded, options)
    ties = ties_of(loaded, graph, options)
    axes = turn_to_axes(loaded, graph, all_limits(loaded, graph, options, ties), options, context)
    if axes.group is not None:
        ties = ties_of(loaded, axes.graph, options)
    graph, options = axes.graph, axes.budgeted(options)
    training: dict[str, Any] = {}
    if options.sparsify != "none":
        training = sparsify(loaded, graph, choose_units(loaded, graph, options, context, ties).keep, options, context)
    chosen = choose_units(loaded, graph, options, context, ties)
    evidence, target, measured_facts = chosen.evidence, chosen.target, chosen.facts
    result = StepResult(loaded)
    refit = Refit(refit_kind(loaded, options, context), graph, evidence, context, axes)
    scope, proof = best_cut(loaded, chosen, refit, options, ties, result)
    if measured_facts and proof.failed:  # what was measured is no longer what is cut
        measured_facts = {f"{name}_kept": None for name in options.targets()}
    if not proof.keep:
        limits = limits_for(graph.groups, options, layer_names(loaded))
        why = proof.notes or [*whole_groups_notes(graph.groups, limits, options), *left_out_notes(graph)]
        raise NothingRemoved(f"model {loaded.name!r}: nothing was removed: {shortened(why)}")
    ids = graph.keep_ids(proof.keep)
    plan = plan_reconstruction(loaded, options, context, result.notes, worthwhile=not options.trains())
    whole = copy_module(loaded.module) if refit.kind == "sequential" or plan is not None else None
    outcomes: dict[str, Outcome] = {}
    refitted, normalized_layers = refit.cut(loaded, whole, proof.keep, options)
    if whole is not None and plan is not None:
        outcomes = reconstruct_cut(whole, loaded, graph, ids, plan)
        result.tables["reconstructed blocks"] = outcome_table(outcomes)
    result.facts = {
        **_facts(graph, proof, options.exact_costs()),
        "criterion": options.criterion,
        "scope": scope,
        "refit": refit.kind,
        "layers_refitted": refitted,
        "batchnorm_layers_recalibrated": normalized_layers,
        "blocks_reconstructed": sum(one.kept for one in outcomes.values()),
        **measured_facts,
        **({"sparsify": training} if training else {}),
        **({"rotated_to": "principal axes"} if axes.group is not None else {}),
    }
    target = axes.of_original(result.facts, target, options)
    unturned = [f"the channels between layers keep their axes: {axes.why_not}"] if axes.why_not else []
    notes = unturned + ties.notes + follow(loaded, ties.geometry, graph)
    result.missed = missed_budgets(result.facts, target, options)
    result.notes += proof.notes + notes + budget_notes(result.facts, target, options) + left_out_notes(graph)
    if context.data is not None and refit.kind == "none" and options.recover.mode == "none":
        result.notes.append("no layer was refitted; reconstruct auto keeps more of the accuracy")
    result.tables["pruned groups"] = _rows(graph, proof.keep)
    context.log(f"pruned {len(proof.keep)} groups; largest difference from the masked model {proof.difference:.1e}")
    return result


def prunable_graph(loaded: Loaded, options: PruneOptions) -> Graph:
    """The groups of a model.

    Raises:
        InputError: if there are none.
    """
    graph = build_graph(loaded.module, loaded.example, options.attention)
    if not graph.groups:
        reasons = left_out_notes(graph) or list(dict.fromkeys(reason for reason in graph.pinned.values() if reason))
        raise InputError(f"model {loaded.name!r}: no channels can go{': ' if reasons else ''}{shortened(reasons)}")
    return graph


def _facts(graph: Graph, proof: Proof, costs: tuple[str, ...]) -> dict[str, Any]:
    """How exact the cut is, and what it leaves of the model."""
    work, whole, kept = GraphWork(graph), whole_counts(graph), counts(graph, proof.keep)
    macs_after = exact_macs(graph, graph.keep_ids(proof.keep))
    before, after = exact_costs(work.at(whole), costs), exact_costs(work.at(kept, macs_after), costs)
    return {
        "largest_difference": proof.difference,
        "difference_dtype": proof.dtype,
        "groups": len(graph.groups),
        "groups_pruned": len(proof.keep),
        "groups_left_out": len(graph.left_out) + len(proof.failed),
        "channels_removed": int(sum((~mask).sum() for mask in proof.keep.values())),
        "macs_before": round(work.multiplications(whole)),
        "macs_after": macs_after,
        **{f"{name}_kept": after[name] / figure if figure else 1.0 for name, figure in before.items()},
    }


class Chosen(NamedTuple):
    """What stays, and why: evidence, units that stay by group, the share aimed at, facts about what was measured,
    which channels competed, and by scope what else would meet the budget."""

    evidence: Evidence
    keep: dict[str, np.ndarray]
    target: float | None
    facts: dict[str, Any]
    scope: str
    others: dict[str, dict[str, np.ndarray]] = {}


@phase("choose")
def choose_units(loaded: Loaded, graph: Graph, options: PruneOptions, context: Context, ties: Ties = FREE) -> Chosen:
    """Score the units and choose which stay, within the options' limits and budget."""
    evidence = evidence_for(loaded, graph, options, context)
    scores = score_groups(graph, evidence, options)
    scope = scope_of(loaded, options, context, ties)
    losses = predicted_losses(loaded, graph, scores, options, context) if scope == "solve" else {}
    scope = "local" if scope == "solve" and not losses else scope  # no layer's change could be seen in the output
    limits = all_limits(loaded, graph, options, ties)
    allocation = allocation_for(graph, scores, limits, options, ties.classes, losses)
    for name, amount in options.targets().items():
        if cost_of(name).known != "exact":
            keep, target, facts = meet_measured(name, amount, loaded, graph, allocation, context)
            return Chosen(evidence, settled(graph, ties, allocation, keep), target, facts, scope)
    keep, share = choose(graph, allocation, options)
    budget = exact_budget(graph, options)
    if not losses or budget is None:
        return Chosen(evidence, settled(graph, ties, allocation, keep), share, {}, scope)
    keep = settled(graph, ties, allocation, keep, lambda restricted: restricted.for_budget(*budget))
    if options.scope != "auto" or not isinstance(allocation, SolvedAllocation | UniformAllocation):
        return Chosen(evidence, keep, share, {}, scope)
    alike = allocation_for(graph, scores, limits, options, ties.classes)
    local = settled(graph, ties, alike, choose(graph, alike, options)[0])
    others, ends = {"local": local}, (counts(graph, keep), counts(graph, local))
    middle = allocation.halfway(*ends, *budget)
    if middle is not None:
        others["between"] = settled(
            graph, ties, allocation, allocation.choose(middle), lambda restricted: restricted.halfway(*ends, *budget)
        )
    if isinstance(allocation, UniformAllocation):
        others |= {
            f"solve with more of {name}": allocation.choose(found)
            for name, found in with_more(graph, ties, allocation, ends[0], budget)
        }
    return Chosen(evidence, keep, share, {}, scope, distinct(graph, keep, others))


def best_cut(
    loaded: Loaded, chosen: Chosen, refit: Refit, options: PruneOptions, ties: Ties, result: StepResult
) -> tuple[str, Proof]:
    """The cut that comes back best when it is refitted, and its scope; a single one is not tried.

    Predicted losses are estimates: of half of ResNet-56's MACs solved widths leave a held-out error of 0.119, one share
    0.116, what lies halfway between them 0.104.
    """
    graph, context = refit.graph, refit.context
    proofs = {
        scope: proven_together(graph, keep, ties, lambda keep: proven(loaded, graph, keep, context))
        for scope, keep in {chosen.scope: chosen.keep, **chosen.others}.items()
    }
    first, *others = proofs
    if not others or not all(proof.keep for proof in proofs.values()):
        return first, proofs[first]
    errors = refitted_errors(loaded, {scope: proof.keep for scope, proof in proofs.items()}, refit, options)
    best = min(errors, key=lambda scope: errors[scope], default=first)
    result.tables["scopes tried"] = [
        {"scope": scope, "held_out_error": round(error, 5), "taken": scope == best} for scope, error in errors.items()
    ]
    listed = ", ".join(f"{scope} {error:.3g}" for scope, error in errors.items())
    context.log(f"scope {best} is taken: held-out errors after a refit are {listed}")
    return best, proofs[best]


def scope_of(loaded: Loaded, options: PruneOptions, context: Context, ties: Ties) -> str:
    """The row of SCOPES; groups of a class keep one share in any of them.

    Models whose widths are tied are transformers, which may be large: there `auto` solves where a refit is quick, too.
    """
    if options.scope != "auto":
        return options.scope
    if context.data is None or not options.targets():
        return "local"
    return "solve" if ties.classes is None or has_quick_refit(loaded, options, context) else "local"


def all_limits(loaded: Loaded, graph: Graph, options: PruneOptions, ties: Ties) -> dict[str, Limits]:
    """What each group may lose, also by what a configuration has a width for."""
    limits = limits_for(graph.groups, options, layer_names(loaded))
    return limits | {name: replace(limits[name], whole=True) for name in whole_groups(graph, ties)}


def layer_names(loaded: Loaded) -> list[str]:
    """Names of all modules but the root."""
    return [name for name, _ in loaded.module.named_modules() if name]


def _rows(graph: Graph, keep: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {
            "group": g.name,
            "units": len(g),
            "kept": int(keep[g.name].sum()),
            "layers": len({m.name.rpartition(".")[0] for m in g.members}),
        }
        for g in graph.groups
        if g.name in keep
    ]
