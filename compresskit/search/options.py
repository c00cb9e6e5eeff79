"""What `search` takes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, model_validator

from ..core.costs import MACS, PARAMS, cost_of, field_of, names
from ..core.drops import read_drop
from ..core.effort import Efforts, Passes
from ..core.options import choice, option
from ..core.registry import Registry
from ..core.shares import Share
from ..decomposition.tables import KINDS
from ..pruning.tables import CRITERIA
from ..quantization.tables import FORMATS, ROUNDINGS
from ..training.budgets import with_targets
from .nas.options import BATCH, TECHNIQUE, ArchitectureOptions
from .tables import ARCHITECTURES, POLICIES, SUBJECTS

#: options that only some policies read
_POLICY_OPTIONS = {
    "reward": ("amc",),
    "probe": ("solve", "auto"),
    "warmup": ("amc", "haq"),
    "storage": ("evolution", "tpe"),
    "study": ("evolution", "tpe"),
}
#: options that only some techniques read
_TECHNIQUE_OPTIONS = {
    **dict.fromkeys(("criterion", "round_to"), ("prune", "mixed")),
    **dict.fromkeys(("min_keep_ratio", "levels", "recalibration_samples", "refit"), ("prune", "decompose", "mixed")),
    "kind": ("decompose", "mixed"),
    **dict.fromkeys(("bits", "formats", "rounding"), ("quantize", "mixed")),
    "mix": ("mixed",),
}
#: shares at a place by default, and all places' shares together where that is more; digits_cnn, of three places, used
#: 46.4 % of the MACs of a budget of 50 % by 8 ranks a layer
_FEWEST_LEVELS, _MOST_LEVELS, _STEPS = 8, 32, 96
#: policy -> the optional packages that it stands on
_POLICY_PACKAGES = {
    **dict.fromkeys(("evolution", "tpe"), ("optuna",)),
    **dict.fromkeys(("amc", "haq"), ("gymnasium", "stable_baselines3")),
}
#: part of a mix -> the options that only it reads
_PART_OPTIONS = {"ratio": ("criterion", "round_to"), "rank": ("kind",), "bits": ("bits", "formats", "rounding")}


if TYPE_CHECKING:  # checkers do not know the names that the table of costs has
    _Reward = str
else:
    _Reward = Literal["error", MACS, PARAMS]


@with_targets("search", section="Budget")
class SearchOptions(ArchitectureOptions):
    """Find each layer's share under a budget."""

    renamed = {
        "budget": f"one option a cost: {', '.join(map(field_of, names()))} or target_drop; e.g. {field_of(MACS)} 0.5",
        "floor": "min_keep_ratio",
    }

    efforts: ClassVar[Efforts] = {
        "fast": {"trials": 25, "score_samples": 500, "refit": "sequential"},
        "best": {"trials": 400, "score_samples": 4000},
    }

    technique: Annotated[str, choice(SUBJECTS)] = option("prune", "what is searched over", section="Search")
    policy: Annotated[str, choice(POLICIES)] = option("auto", "how it is searched", section="Search")
    target_drop: Annotated[
        float | str | None, BeforeValidator(partial(read_drop, "target_drop", zero="refused"))
    ] = option(
        None,
        "cheapest model whose metric drops by no more, e.g. 0.01 or 1% (on held-out examples; of a share "
        "points, else percent of the original's value)",
        section="Budget",
    )  # fmt: skip
    trials: int = option(100, "candidates to score at most", section="Search", ge=1)
    seconds: float | None = option(None, "stop searching after this many seconds", section="Search", gt=0)
    score_samples: int = option(
        1000, "held-out training examples that score a candidate; the test split is never touched", section="Scoring",
        ge=8,
    )  # fmt: skip
    recalibration_samples: int = option(
        128, "examples for BatchNorm statistics of a candidate, before it is scored", section="Scoring", ge=0
    )
    finetune_finalists: int = option(
        0, "train the best few candidates for a short time and choose among them by the held-out metric",
        section="Scoring", ge=0,
    )  # fmt: skip
    finetune_steps: int = option(50, "training steps of each finalist", section="Scoring", ge=1)
    refit: Literal["auto", "inputs", "sequential"] = option(
        "auto",
        "how the winner's layers are refitted: as the candidates' were, from the whole model's activations (inputs), "
        "one after the other from the compressed model's (sequential; better), or as the technique does it by itself, "
        "blocks tuned by gradients included (auto; best)",
        section="Scoring",
    )
    reward: _Reward = option(
        "error",
        "what amc is rewarded for: minus the error, or that times the logarithm of MACs or parameters",
        section="Policies",
    )
    warmup: Share = option(
        0.25,
        "share of the trials or time in which agents only explore (100 episodes at most)",
        section="Policies",
        ge=0,
        lt=1,
    )
    storage: str | None = option(
        None,
        "study storage of evolution and tpe, e.g. sqlite:///study.db; processes that name the same one join",
        section="Policies",
    )
    study: str = option("search", "name of the study in its storage", section="Policies")
    ray: int | None = option(
        None,
        "score this many candidates at once on Ray workers: on the cluster of RAY_ADDRESS, else on this machine",
        section="Policies",
        ge=1,
    )
    levels: int | None = option(
        None,
        "shares that are considered at each place, spread evenly; by default 8, and up to 32 where places are few, so "
        "that a step is about a hundredth of the budget",
        section="Space", ge=2,
    )  # fmt: skip
    probe: Literal["estimate", "measure"] = option(
        "estimate",
        "what solve knows of a place: an estimate from layer errors and one backward pass, or two runs of the model",
        section="Policies",
    )
    min_keep_ratio: Share = option(0.2, "smallest share that may stay at a place", section="Space", gt=0, lt=1)
    round_to: int = option(1, "channel counts stay multiples of this", section="Space", ge=1)
    mix: list[Literal["ratio", "rank", "bits"]] = option(
        ["ratio", "rank", "bits"],
        "what mixed decides: channels that stay, ranks, bits (where the budget bounds bytes)",
        section="Space", min_length=1,
    )  # fmt: skip
    criterion: Annotated[str, choice(CRITERIA)] = option("l1", "how channels are ranked", section="Pruning")
    kind: Annotated[str, choice(KINDS)] = option(
        "channel-svd", "how layers are decomposed (linear and 1x1: svd)", section="Decomposition"
    )
    bits: list[int] = option([2, 3, 4, 5, 6, 8], "widths that a layer's weights may take", section="Quantization")
    formats: list[Annotated[str, choice(FORMATS)]] = option(
        [], "number formats that a layer's weights may take beside them, e.g. nf4", section="Quantization"
    )
    rounding: Annotated[str, choice(ROUNDINGS)] = option("nearest", "how weights are rounded", section="Quantization")
    samples: int = option(512, "calibration examples", section="Calibration", ge=8)
    probe_samples: int = option(256, "examples on which a place is probed", section="Calibration", ge=8)

    def effort_reads(self, name: str) -> bool:
        """Whether a step with these options reads an option that an effort could set."""
        return super().effort_reads(name) and (self.technique in _TECHNIQUE_OPTIONS.get(name, (self.technique,)))

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly."""
        scored = self.trials * (min(self.score_samples, examples) + self.recalibration_samples)
        trained = self.trials * self.child_steps * BATCH if self.technique == TECHNIQUE else 0
        return super().passes(examples).plus(Passes(scored + 6.0 * self.samples, trained))

    def seconds_at_most(self) -> float | None:
        """Seconds after which the search ends."""
        return self.seconds

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return ["search scores candidates on data", *super().data_readers()]

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        found = super().packages() | dict.fromkeys(_POLICY_PACKAGES.get(self.policy, ()), "search")
        if self.ray:
            found["ray"] = "ray"
        if self.timed_target() and self.technique == "quantize":
            found |= dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx")
        return found

    def named_rows(self) -> Iterator[tuple[str, Registry[Any], str]]:
        """(option, registry, name) of each row that these options name; a policy is one of the technique's kind."""
        for name, registry, row in super().named_rows():
            architecture = name == "policy" and self.technique == TECHNIQUE
            yield name, ARCHITECTURES if architecture else registry, row

    def measured_target(self) -> str | None:
        """The cost with a budget that only measuring tells, if there is one."""
        return next((name for name in self.targets() if cost_of(name).known != "exact"), None)

    def costs(self) -> tuple[str, ...]:
        """The exact costs that are computed of every choice: modelled ones only where they are bounded."""
        bounded = self.targets()
        able = [name for name in self.exact_costs() if self.technique in cost_of(name).techniques]
        return tuple(name for name in able if name in bounded or not cost_of(name).modelled)

    def levels_for(self, places: int) -> int:
        """Shares at each of so many places: few places take finer steps, unless each is timed or joined with others."""
        if self.levels is not None or self.timed_target() or self.technique == "mixed":
            return self.levels or _FEWEST_LEVELS
        return min(max(_STEPS // max(places, 1), _FEWEST_LEVELS), _MOST_LEVELS)

    def parts(self) -> list[str]:
        """What a mixed search decides: bits stay as they are where no budget is of what they change."""
        by_bits = any("quantize" in cost_of(name).techniques for name in self.targets() if name in self.costs())
        decides = by_bits or self.target_drop is not None
        return [part for part in self.mix if part != "bits" or decides]

    def made_small(self) -> str:
        """The cost that a search within a drop makes small: the first that the decisions change."""
        decides_bits = self.technique == "mixed" and "bits" in self.parts()
        return names("exact", technique="quantize" if decides_bits else self.technique)[0]

    @model_validator(mode="after")
    def _budget_says_something(self) -> SearchOptions:
        self._check_targets()
        if self.timed_target() and self.technique == "quantize" and {"bits", "formats"} & self.model_fields_set:
            raise ValueError(
                "bits and formats would be ignored: under a latency budget layers compute in int8 or in float"
            )
        if "finetune_steps" in self.model_fields_set and not self.finetune_finalists:
            raise ValueError("finetune_steps would be ignored: set finetune_finalists, e.g. 3")
        self.refuse_unread(_TECHNIQUE_OPTIONS, "technique")
        if self.technique == "mixed":
            self._check_mix()
        if any(not 2 <= width <= 8 for width in self.bits) or not self.bits:
            raise ValueError(f"bits must be widths from 2 to 8, got {self.bits}")
        if POLICIES.builtin(self.policy):  # a user's own may read any
            self.refuse_unread(_POLICY_OPTIONS, "policy")
        return self

    def _check_targets(self) -> None:
        targets = self.targets()
        if not targets and self.target_drop is None:
            raise ValueError(f"nothing says how small; give a target, e.g. {field_of(MACS)} 0.5")
        for name in targets:
            able = cost_of(name).techniques
            if self.technique not in able:
                raise ValueError(
                    f"{field_of(name)} does not apply to technique {self.technique!r}; it is for {', '.join(able)}"
                )
        if self.own_targets() and self.timed_target() and self.technique == "quantize":
            raise ValueError(f"{' and '.join(map(field_of, targets))} exclude each other with technique 'quantize'")
        measured = [field_of(name) for name in targets if cost_of(name).known != "exact"]
        measured += ["target_drop"] if measured and self.target_drop is not None else []
        if len(measured) > 1:
            raise ValueError(f"{' and '.join(measured)} exclude each other; give one of them beside other targets")

    def _check_mix(self) -> None:
        parts = self.parts()
        if (
            "bits" in self.mix
            and "bits" not in parts
            and {"mix", "bits", "formats", "rounding"} & self.model_fields_set
        ):
            raise ValueError(
                "bits would not count: the budget bounds no bytes; add e.g. target_bytes 0.2, or leave bits out"
            )
        for part, own in _PART_OPTIONS.items():
            ignored = [name for name in own if name in self.model_fields_set and part not in parts]
            if ignored:
                raise ValueError(f"{' and '.join(ignored)} would be ignored: mix has no {part}")
