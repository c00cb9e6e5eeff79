"""What `decompose` takes. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import model_validator

from ..analysis.reconstruction.options import JointReconstructionOptions
from ..core.costs import field_of, names
from ..core.effort import Efforts, Passes
from ..core.options import choice, option
from ..core.shares import Share
from ..training.budgets import BudgetOptions, with_targets
from ..training.options import StepOptions
from .tables import KIND_CHOICES, KINDS, OBJECTIVES, RANK_RULES

_TECHNIQUE = "decompose"
_TARGETS = tuple(field_of(name) for name in names(technique=_TECHNIQUE))
#: rank rule -> the options that only it reads
_RULE_OPTIONS = {
    "budget": (*_TARGETS, "target", "sensitivity"),
    "energy": ("energy",),
    "keep-ratio": ("keep_ratio",),
    "fixed": ("rank",),
    "given": ("ranks",),
    "error": ("max_error",),
}
_DATA_OPTIONS = ("inputs", "calibration_rows")


@with_targets(_TECHNIQUE, section="Budget")
class DecomposeOptions(JointReconstructionOptions, BudgetOptions):
    """Replace layers by chains of smaller layers, at ranks chosen by a rule or for a budget."""

    renamed = {"ratio": "keep_ratio, the share of its MACs that each layer keeps"}

    efforts: ClassVar[Efforts] = {
        "fast": {"calibration_samples": 128, "calibration_rows": 4000},
        "best": {"calibration_samples": 1024, "calibration_rows": 40000},
    }

    kind: Annotated[str, choice(KIND_CHOICES)] = option("auto", "how layers are decomposed", section="Decomposition")
    consider: list[Annotated[str, choice(KINDS)]] = option(
        [],
        "the kinds that auto chooses among (default: all, but tensor-train for convolutions only)",
        section="Decomposition",
    )
    objective: Annotated[str, choice(OBJECTIVES)] = option(
        "weight",
        "what the factors are fitted to; all but weight need --data (under a budget with data: activation)",
        section="Decomposition",
    )
    inputs: Literal["original", "compressed"] = option(
        "original",
        "fit each layer to what it gets in the original model, or to what arrives through the layers already "
        "decomposed (asymmetric, layer by layer; what a budget with data takes)",
        section="Decomposition",
    )

    rank_by: Annotated[str, choice(RANK_RULES)] = option("energy", "how ranks are chosen", section="Ranks")
    energy: Share = option(0.9, "share of a layer's energy to keep", section="Ranks", gt=0, lt=1)
    keep_ratio: Share = option(0.5, "share of its MACs that each layer keeps", section="Ranks", gt=0, lt=1)
    rank: int = option(16, "the rank, for rank_by fixed", section="Ranks", ge=1)
    ranks: dict[str, int] = option(
        {}, "rank by layer name pattern, e.g. 'layer1.*=8'; the first match counts, other layers stay", section="Ranks"
    )
    max_error: Share = option(0.3, "largest relative error of a layer", section="Ranks", gt=0, lt=1)
    round_to: int = option(1, "make ranks multiples of this where a layer is large enough", section="Ranks", ge=1)

    sensitivity: Literal["auto", "layer", "output"] = option(
        "auto",
        "what a budget minimizes: the layers' squared relative errors, or the measured change of the model's output "
        "(auto: output where there is data)",
        section="Budget",
    )

    slower_layers: Literal["auto", "refuse", "allow"] = option(
        "auto",
        "whether a layer may become slower, as measured on the example, to save MACs or parameters (auto: refuse, "
        "except where ranks are given and for embeddings)",
        section="Layers",
    )
    layers: list[str] = option(
        [], "decompose only layers that one of these patterns matches", section="Layers", takes="layers"
    )
    skip: list[str] = option(
        [], "leave out layers that one of these patterns matches", section="Layers", takes="layers"
    )
    embeddings: Literal["keep", "decompose"] = option(
        "keep", "embeddings get smaller but slower, so they stay unless asked for", section="Layers"
    )
    lstms: Literal["keep", "decompose"] = option(
        "keep", "factor the input weights of LSTMs by the rank rule (under a budget: by energy)", section="Layers"
    )

    calibration_samples: int = option(256, "training inputs to calibrate on", section="Calibration", ge=1)
    calibration_rows: int = option(10000, "positions to draw from them for each layer", section="Calibration", ge=1)
    norms: Literal["keep", "reestimate"] = option(
        "keep",
        "afterwards, re-estimate batch normalization's statistics on the calibration data",
        section="Calibration",
    )

    explain: bool = option(
        False,
        "show for each layer the choice and the best of the other kinds; report.json lists all candidates",
        section="Report",
    )
    plot: bool = option(False, "plot each layer's error and loss against its cost", section="Report")
    recompose: bool = option(
        False, "do the opposite: merge earlier steps' factors back into plain layers", section="Decomposition"
    )

    def considered(self) -> list[str]:
        """The kinds allowed, in the table's order."""
        if self.kind == "auto":
            own = [name for name in self.consider if name not in KINDS]
            return [name for name in KINDS if not self.consider or name in self.consider] + own
        return ["svd", "channel-svd"] if self.kind in ("svd", "channel-svd") else ["svd", self.kind]

    def names_a_rule(self) -> bool:
        """Whether it was said how ranks are chosen, and not left to the default."""
        return "rank_by" in self.model_fields_set  # a rule's own options set it too

    def refuses_slower(self) -> bool:
        """Whether a layer is only replaced by what is measured to be faster."""
        return self.slower_layers == "refuse" or (self.slower_layers == "auto" and self.rank_by != "given")

    def uses_data(self) -> bool:
        """Whether the options as given cannot do without data."""
        return self.objective != "weight" or self.norms == "reestimate" or self.sensitivity == "output"

    def with_data(self) -> DecomposeOptions:
        """The options of a run that has data: under a budget, what was left open fits the layers to their outputs.

        Each layer is fitted to what arrives through those already decomposed. ResNet-20 at half its multiplications,
        2,000 test images, of 88.5 %: 65.8 % with factors of the weights, 85.95 % so, 84.65 % with statistics of batch
        normalization re-estimated too (one seed; timings chose other kinds there).
        """
        given = self.model_fields_set
        if self.rank_by != "budget" or ("objective" in given and self.objective == "weight"):
            return self
        better = {"objective": "activation", "inputs": "compressed"}
        return self.model_copy(update={name: value for name, value in better.items() if name not in given})

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly."""
        return super().passes(examples).plus(Passes(3.0 * self.calibration_samples))

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        readers = {
            f"objective {self.objective}": self.objective != "weight",
            f"norms {self.norms}": self.norms == "reestimate",
            f"sensitivity {self.sensitivity}": self.sensitivity == "output",
        }
        return [*super().data_readers(), *(f"{name} needs data" for name, reads in readers.items() if reads)]

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> DecomposeOptions:
        given = [name for name in type(self).model_fields if name in self.model_fields_set]
        own = [name for name in given if name not in StepOptions.model_fields and name != "recompose"]
        if self.recompose and own:
            raise ValueError(f"{', '.join(own)} would be ignored: recompose only merges factors; drop one of them")
        if "round_to" in given and self.rank_by in ("fixed", "given"):
            raise ValueError(f"round_to would be ignored: rank_by is {self.rank_by!r}; give a rank that is a multiple")
        measures = self.rank_by == "budget" and self.sensitivity != "layer"
        if "calibration_samples" in given and not self.uses_data() and not measures:
            raise ValueError(
                "calibration_samples would be ignored: nothing here reads data; set objective to activation"
            )
        return self

    @model_validator(mode="after")
    def _consider_is_for_auto(self) -> DecomposeOptions:
        if self.consider and self.kind != "auto":
            raise ValueError(f"consider is for kind auto, and kind is {self.kind!r}; leave one of them out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _targets_mean_budget(cls, values: object) -> object:
        if isinstance(values, dict) and "rank_by" not in values:
            for rule, names in _RULE_OPTIONS.items():
                if any(values.get(name) is not None for name in names):
                    return {**values, "rank_by": rule}
        return values

    @model_validator(mode="after")
    def _rules_read_their_options(self) -> DecomposeOptions:
        for rule, own in _RULE_OPTIONS.items():
            for name in own:
                used = rule == self.rank_by or not RANK_RULES.builtin(self.rank_by)  # a user's own may read any
                used = used or (name == "energy" and self.lstms == "decompose")
                if name in self.model_fields_set and getattr(self, name) is not None and not used:
                    raise ValueError(f"{name} is for rank_by {rule}, and rank_by is {self.rank_by!r}; drop one of them")
        if (timed := self.timed_target()) and self.slower_layers == "allow":
            raise ValueError(
                f"slower_layers would be ignored: a slower layer never helps {field_of(timed)}; drop one of them"
            )
        if self.rank_by == "given" and not self.ranks:
            raise ValueError("rank_by given needs ranks, e.g. 'layer1.*=8'")
        if self.rank_by == "given" and self.lstms == "decompose":
            raise ValueError("lstms would be ignored: rank_by is 'given'; decompose them in a step of their own")
        for pattern, rank in self.ranks.items():
            if rank < 1:
                raise ValueError(f"ranks: {pattern}={rank} must be at least 1")
        targets = [field_of(name) for name in self.targets()]
        if self.rank_by == "budget" and len(targets) != 1:
            raise ValueError(f"rank_by budget takes one of {', '.join(_TARGETS)}, got {', '.join(targets) or 'none'}")
        if self.objective == "weight":
            for name in _DATA_OPTIONS:
                if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} would be ignored: objective is 'weight'; set objective to activation")
        return self
