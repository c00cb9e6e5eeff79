"""Options of `prune`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from ..analysis.reconstruction.options import JointReconstructionOptions
from ..core.costs import cost_of, field_of, names
from ..core.effort import Efforts, Passes
from ..core.options import choice, option
from ..core.shares import Share
from ..training.budgets import BudgetOptions, with_targets
from .tables import ALLOCATIONS, BLOCK_IMPORTANCES, CRITERIA, EXPERT_IMPORTANCES, REGULARIZERS, SALIENCIES, SCOPES

_TECHNIQUE = "prune"
_AMOUNTS = ("ratio", "depth_ratios", *(field_of(name) for name in names(technique=_TECHNIQUE)))
#: options that only mean something for some granularities
_ONLY = {
    "channel": [
        "ratios", "round_to", "min_channels", "min_keep_ratio", "criterion", "scope", "reduction", "normalize",
        "attention", "ridge", "depth_ratios", "rotate", "sparsify", "sparsify_epochs", "sparsify_strength",
        *(field_of(name) for name in names("timed", technique=_TECHNIQUE)),
    ],
    "sparse": ["saliency", "allocation", "pattern"],
    "not block": [
        "reconstruct", "iterations", "reconstruction_samples", "reconstruction_seconds", "joint_iterations",
        "joint_samples", "recalibrate", "activation_memory",
    ],
}  # fmt: skip

#: a text has many positions, and each costs a forward through all before it
_CAUSAL = {"samples": 128, "positions_per_sample": 128}


def _no_learning_rate(given: Any) -> Any:
    """The key had another meaning before: that of training."""
    if given in ("cosine", "one-cycle", "constant"):
        raise ValueError(f"schedule {given!r} is now lr_schedule {given!r}; schedule is how the cuts follow each other")
    return given


if TYPE_CHECKING:  # checkers do not know the names that the table of costs has
    _Normalization = str
else:
    _Normalization = Literal["none", "mean", "max", "sum", "median", *names("exact")]


@with_targets(_TECHNIQUE, section="How much")
class PruneOptions(JointReconstructionOptions, BudgetOptions):
    """Remove channels, heads, blocks or single weights."""

    renamed = {
        "cuts_follow": "schedule", "cuts": "steps", "floor": "min_keep_ratio", "points": "positions_per_sample",
    }  # fmt: skip

    efforts: ClassVar[Efforts] = {"fast": {"samples": 512}, "best": {"samples": 8192}}

    granularity: Literal["channel", "weight", "n:m", "block", "expert", "vocabulary"] = option(
        "channel",
        "channel: channels and heads, really removed; block: whole residual blocks or layers, really removed; "
        "expert: whole experts of a transformers mixture, really removed, of every layer as many; "
        "vocabulary: tokens that the data does not use, really removed, and from the tokenizer; "
        "weight: single weights become zero; n:m: n of every m weights stay", section="What goes",
    )  # fmt: skip
    attention: Literal["heads", "dims"] = option(
        "heads", "attention loses whole heads, or the same dimensions of every head", section="What goes"
    )
    widths: Literal["auto", "uniform", "free"] = option(
        "auto", "uniform: layers of one kind keep one width, as the configuration of a transformers model has it, and "
        "the result is a folder that from_pretrained loads; free: each layer its own; auto: uniform for hf: models",
        section="What goes",
    )  # fmt: skip
    protect: list[str] = option(
        [], "layers or groups that stay whole, by name pattern", section="What goes", takes="layers"
    )
    ratio: Share | None = option(None, "share removed, e.g. 0.5", section="How much", gt=0, lt=1)
    depth_ratios: list[Share] = option(
        [], "share removed along the depth, from the first groups to the last, straight lines between: e.g. 0.2 and "
        "0.6", section="How much",
    )  # fmt: skip
    ratios: dict[str, Share] = option(
        {}, "share removed from layers or groups whose name matches: PATTERN=SHARE", section="How much"
    )
    pattern: str = option("2:4", "n:m: how many of how many weights stay", section="How much")
    round_to: int = option(
        8, "widths stay multiples of this (narrow layers: the largest power of two up to an eighth of their width)",
        section="How much", ge=1,
    )  # fmt: skip
    min_channels: int = option(2, "fewest channels (or heads) left of a group", section="How much", ge=1)
    min_keep_ratio: Share = option(0.1, "smallest share of a group that stays", section="How much", ge=0, lt=1)
    criterion: Annotated[str, choice(CRITERIA)] = option("l2", "how channels are ranked", section="Which")
    scope: Annotated[str, choice(SCOPES)] = option("auto", "which channels compete with each other", section="Which")
    reduction: Literal["sum", "mean", "max", "first"] = option(
        "mean", "how scores of the layers that share a channel combine", section="Which"
    )
    normalize: _Normalization = option(
        "mean", "scores are divided by this before groups compete; a cost: by what a unit takes of it", section="Which"
    )
    block_importance: Annotated[str, choice(BLOCK_IMPORTANCES)] = option(
        "output", "how whole blocks are ranked", section="Which"
    )
    expert_importance: Annotated[str, choice(EXPERT_IMPORTANCES)] = option(
        "output", "how whole experts are ranked", section="Which"
    )
    saliency: Annotated[str, choice(SALIENCIES)] = option("magnitude", "how single weights are ranked", section="Which")
    allocation: Annotated[str, choice(ALLOCATIONS)] = option(
        "auto", "how many weights each layer keeps", section="Which"
    )
    rotate: Literal["auto", "pca", "none"] = option(
        "auto", "pca: turn what flows between a transformer's layers to its principal axes, folded into the weights, "
        "so that the directions that carry least go (a head that shares the embedding's weights gets its own); auto: "
        "for causal language models with data, where that is possible and such a head is small",
        section="Before the cut",
    )  # fmt: skip
    sparsify: Annotated[str, choice(REGULARIZERS)] = option(
        "none", "train before the cut with a penalty that pushes what would go towards zero", section="Before the cut"
    )
    sparsify_epochs: float = option(1.0, "epochs of that training", section="Before the cut", gt=0)
    sparsify_strength: float = option(
        1.0, "factor on the penalty, whose own strength is its paper's", section="Before the cut", gt=0
    )
    samples: int = option(
        2048, "calibration examples; 128 for causal language models unless given", section="Calibration", ge=1
    )
    positions_per_sample: int = option(
        16,
        "positions of a feature map sampled from each calibration example; 128 for causal language models unless given",
        section="Calibration",
        ge=1,
    )
    recalibrate: Literal["auto", "never"] = option(
        "auto", "estimate BatchNorm statistics again after the cut, where there is data", section="After the cut"
    )
    # layers can also be refitted one by one
    reconstruct: Literal["auto", "none", "inputs", "sequential", "block"] = option(  # type: ignore[assignment]
        "auto", "refit layers on calibration data: inputs (those that lost inputs, from the whole model's activations) "
        "or sequential (all from the first of these on, from the cut model's activations; mends what earlier layers "
        "and shortcuts left; BatchNorm statistics then stay); auto: sequential where that is quick and takes little "
        "memory, else inputs, for layers with enough samples; none without data; block: as auto, and then blocks are "
        "tuned by gradients so that they give what the whole model's give, without labels, which auto does too where "
        "there are data and time enough; of single weights only block can be done", section="After the cut",
    )  # fmt: skip
    ridge: float | None = option(
        None, "pull of refitted weights towards the cut ones (default: chosen for each layer on samples left out; for "
        "reconstruct inputs 0.001)", section="After the cut", ge=0,
    )  # fmt: skip

    explain: str | None = option(
        None, "only show which channels are tied to this layer's, and by what; nothing is cut", section="Look first"
    )
    sensitivity: Literal["off", "measure"] = option(
        "off", "measure: only measure the metric against the share removed, group by group; nothing is cut",
        section="Look first",
    )  # fmt: skip
    schedule: Annotated[Literal["one-shot", "linear", "cubic"], BeforeValidator(_no_learning_rate)] = option(
        "one-shot", "cut at once, or in steps with recovery between them; cubic cuts most at first", section="Schedule"
    )
    steps: int = option(1, "number of cuts of a linear or cubic schedule", section="Schedule", ge=1)

    def trains(self) -> bool:
        """Whether training options mean something."""
        return super().trains() or self.sparsify != "none"

    def tunes_blocks(self) -> bool:
        """Whether blocks are tuned where data and time allow it."""
        return super().tunes_blocks() and self.granularity != "block" and not self.looks_only()

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly."""
        before = self.recover.passes_of_training(examples).backward if self.sparsify != "none" else 0.0
        ranked = Passes(3.0 * self.samples, self.sparsify_epochs * before / self.recover.epochs)
        return super().passes(examples).plus(ranked)

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        found = super().data_readers()
        if self.granularity == "channel" and CRITERIA.needs(self.criterion) and self.explain is None:
            found.append(f"criterion {self.criterion!r} needs data")
        if self.granularity == "channel" and SCOPES.needs(self.scope) and not self.looks_only():
            found.append(f"scope {self.scope!r} needs data")
        if self.granularity == "block" and BLOCK_IMPORTANCES.needs(self.block_importance):
            found.append(f"block_importance {self.block_importance!r} needs data")
        if self.granularity in ("weight", "n:m") and SALIENCIES.needs(self.saliency):
            found.append(f"saliency {self.saliency!r} needs data")
        if self.granularity == "weight" and ALLOCATIONS.needs(self.allocation):
            found.append(f"allocation {self.allocation!r} needs data")
        if self.granularity == "vocabulary":
            found.append("granularity 'vocabulary' needs data")
        if self.rotate == "pca":
            found.append("rotate pca needs data")
        if self.sparsify != "none":
            found.append(f"sparsify {self.sparsify} needs data")
        if self.sensitivity != "off":
            found.append("sensitivity needs data")
        if self.reconstruct in ("inputs", "sequential") and not self.looks_only():
            found.append(f"reconstruct {self.reconstruct} needs data")
        return found

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers afterwards, only narrower or sparser."""
        return self.granularity != "block"

    def for_causal_models(self) -> PruneOptions:
        """The options with the defaults of models that predict next tokens: all of a short text's positions."""
        return self.model_copy(update={key: to for key, to in _CAUSAL.items() if key not in self.model_fields_set})

    def without_training(self) -> Self:
        """The same cut without recovery, and without the training before it."""
        return super().without_training().model_copy(update={"sparsify": "none"})

    def looks_only(self) -> bool:
        """Whether nothing is cut."""
        return self.explain is not None or self.sensitivity != "off"

    def prints_only(self) -> bool:
        """Whether the step only prints which channels are tied."""
        return self.explain is not None

    def amount(self) -> str | None:
        """The option that says how much goes in all, with its key if it has one; None where only overrides do."""
        return next(iter(self._amounts()), None)

    def _amounts(self) -> list[str]:
        given = [name for name in _AMOUNTS if getattr(self, name) not in (None, [])]
        return [*given, *map(field_of, self.own_targets())]

    def weight_allocation(self, *, has_data: bool) -> str:
        """The row of ALLOCATIONS that says how many weights each layer keeps."""
        if self.allocation != "auto":
            return self.allocation
        return "solve" if has_data else "global"

    def n_of_m(self) -> tuple[int, int]:
        """(n, m) of the pattern."""
        n, m = map(int, self.pattern.split(":"))
        return n, m

    @model_validator(mode="after")
    def _one_amount(self) -> PruneOptions:
        given = self._amounts()
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; give one of them")
        if self.granularity == "n:m" and given:
            raise ValueError(f"{given[0]} would be ignored: the pattern {self.pattern} says how much goes")
        if self.granularity == "weight" and given != ["ratio"]:
            raise ValueError("granularity 'weight' needs ratio, the share of weights that become zero, e.g. 0.8")
        if self.granularity == "expert" and given != ["ratio"]:
            raise ValueError("granularity 'expert' needs ratio, the share of a layer's experts that go, e.g. 0.25")
        if self.granularity == "vocabulary" and given:
            raise ValueError(f"{given[0]} would be ignored: the data says which tokens go")
        own_amount = self.granularity in ("n:m", "vocabulary")
        if not given and not self.ratios and not own_amount and not self.looks_only():
            raise ValueError("nothing says how much to prune; give ratio (e.g. 0.5) or target_macs (e.g. 0.5)")
        for pattern, share in self.ratios.items():
            if not 0 <= share < 1:
                raise ValueError(f"ratios: {pattern}={share} must be at least 0 and below 1")
        for share in self.depth_ratios:
            if not 0 <= share < 1:
                raise ValueError(f"depth_ratios: {share} must be at least 0 and below 1")
        return self

    @model_validator(mode="after")
    def _fits_granularity(self) -> PruneOptions:
        idle = [] if self.granularity == "channel" else list(_ONLY["channel"])
        idle += _ONLY["not block"] if self.granularity in ("block", "expert", "vocabulary") else []
        idle += ["widths"] if self.granularity not in ("channel", "block") else []
        idle += [] if self.granularity == "expert" else ["expert_importance"]
        idle += ["protect"] if self.granularity in ("expert", "vocabulary") else []
        idle += ["samples"] if self.granularity == "vocabulary" else []
        idle += [] if self.granularity in ("weight", "n:m") else _ONLY["sparse"]
        idle += [] if self.granularity == "block" else ["block_importance"]
        if self.granularity == "weight":
            idle.append("pattern")
        if self.granularity == "n:m":
            idle.append("allocation")
        ignored = sorted(set(idle) & self.model_fields_set)
        if ignored:
            raise ValueError(f"{', '.join(ignored)} would be ignored with granularity {self.granularity!r}")
        idle = sorted({"sparsify_epochs", "sparsify_strength"} & self.model_fields_set)
        if idle and self.sparsify == "none":
            raise ValueError(f"{', '.join(idle)} would be ignored: sparsify is 'none'; choose e.g. group-lasso")
        if self.granularity != "channel" and self.reconstruct in ("inputs", "sequential"):
            raise ValueError(f"reconstruct {self.reconstruct} is for granularity 'channel'; give block, auto or none")
        if self.sparsify != "none" and self.steps > 1:
            raise ValueError("sparsify trains before a single cut; leave out steps, or sparsify")
        if (self.schedule == "one-shot") != (self.steps == 1):
            raise ValueError(f"steps {self.steps} does not fit schedule {self.schedule!r}; give both, e.g. cubic and 4")
        exact = [name for name in self.targets() if cost_of(name).known == "exact"]
        if self.schedule != "one-shot" and not exact and not self.ratio:
            able = ", ".join(field_of(name) for name in names("exact", technique=_TECHNIQUE))
            raise ValueError(f"schedule {self.schedule!r} needs ratio or one of {able}")
        if self.scope == "solve" and not self.targets():
            raise ValueError("scope 'solve' shares out a budget; give one, e.g. target_macs 0.5, or another scope")
        match = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if not match or not 0 < int(match[1]) < int(match[2]):
            raise ValueError(f"pattern {self.pattern!r} must be N:M with 0 < N < M, e.g. 2:4")
        return self
