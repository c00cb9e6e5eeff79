"""The options of reconstruction, which prune, quantize and decompose share. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from ...core.costs import parse
from ...core.effort import Efforts, Passes
from ...core.options import option
from ...training.options import StepOptions

#: examples a gradient step; ResNet-20 and ResNet-56 were measured with it
BATCH = 32
#: the fewest examples with which tuning blocks was measured to help
FEWEST_EXAMPLES = 2048
#: what a step of each block takes beside a step of the whole model: 1.3 on ResNet-20, 0.8 on a Llama of 2.8 M
_PASSES_A_BLOCK_STEP = 1.25


def _bytes(given: Any) -> Any:
    if given is None:
        return None
    amount = parse("activation_memory", "memory", given)
    if amount.is_share or amount.value < 0:
        raise ValueError(f"activation_memory must be a size, e.g. 2GB, got {given!r}")
    return round(amount.value)


class ReconstructionOptions(StepOptions):
    """Tune a changed model block by block, without labels, so that each block's output comes back."""

    efforts: ClassVar[Efforts] = {
        "fast": {"iterations": 100, "reconstruction_seconds": 60.0},
        "best": {"iterations": 1000, "reconstruction_samples": 8192, "reconstruction_seconds": 7200.0},
    }

    reconstruct: Literal["auto", "none", "block"] = option(
        "auto",
        "block: tune each block by gradients so that it gives what the original's gives, without labels; auto: where "
        "there are data and time enough",
        section="Reconstruction",
    )
    iterations: int = option(
        300, "gradient steps a block, of 32 examples each, for reconstruct block", section="Reconstruction", ge=1
    )
    reconstruction_samples: int = option(
        2048, "training inputs to reconstruct blocks from", section="Reconstruction", ge=1
    )

    reconstruction_seconds: float = option(
        600.0, "seconds that reconstruct auto may take; it takes fewer steps, or none", section="Reconstruction", gt=0
    )  # fmt: skip
    activation_memory: Annotated[int | str | None, BeforeValidator(_bytes)] = option(
        None, "activations of calibration and reconstruction that stay in memory, e.g. 2GB; more of them wait on the "
        "disk (default: half a GiB, 4 GiB while blocks are reconstructed)", section="Calibration",
    )  # fmt: skip

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return [*super().data_readers(), *(["reconstruct block needs data"] if self.reconstruct == "block" else [])]

    def tunes_blocks(self) -> bool:
        """Whether blocks are tuned where data and time allow it."""
        return self.reconstruct == "block" or (self.reconstruct == "auto" and not self.trains())

    def effort_reads(self, name: str) -> bool:
        """Whether a step with these options reads an option that an effort could set."""
        of_blocks = name == "reconstruction_seconds" or name in _blocks_read(type(self))
        reads = self.reconstruct == "auto" if name == "reconstruction_seconds" else True
        return super().effort_reads(name) and (not of_blocks or (self.tunes_blocks() and reads))

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly."""
        found = super().passes(examples)
        if not self.tunes_blocks() or (self.reconstruct == "auto" and examples < FEWEST_EXAMPLES):
            return found
        joint = getattr(self, "joint_iterations", 0)
        steps = _PASSES_A_BLOCK_STEP * self.iterations + joint
        tuned = Passes(2 * self.reconstruction_samples + BATCH * joint, BATCH * steps)
        return found.plus(tuned)

    def seconds_at_most(self) -> float | None:
        """Seconds after which the tuning of blocks ends; training has none."""
        automatic = self.reconstruct == "auto" and not self.trains()
        return self.reconstruction_seconds if automatic else super().seconds_at_most()

    def without_training(self) -> Self:
        """The same step as a dry run does it: nothing is tuned either."""
        return super().without_training().model_copy(update={"reconstruct": "none"})

    @model_validator(mode="after")
    def _blocks_read_their_options(self) -> Self:
        self.refuse_unread(dict.fromkeys(_blocks_read(type(self)), ("auto", "block")), "reconstruct")
        self.refuse_unread({"reconstruction_seconds": ("auto",)}, "reconstruct")
        return self


class JointReconstructionOptions(ReconstructionOptions):
    """The same, and in the end all blocks are tuned at once to the original's output.

    Models of few bits are not, because that diverged.
    """

    efforts: ClassVar[Efforts] = {"fast": {"joint_iterations": 300}, "best": {"joint_iterations": 5000}}

    joint_iterations: int = option(
        1500, "gradient steps of all blocks at once, after those of single blocks; 0 leaves them out",
        section="Reconstruction", ge=0,
    )  # fmt: skip
    joint_samples: int = option(
        16384, "training inputs for these steps, as far as they take no more than 1 GiB", section="Reconstruction", ge=1
    )

    @classmethod
    def own(cls) -> list[str]:
        """Names of the options that it adds."""
        return [name for name in cls.model_fields if name not in ReconstructionOptions.model_fields]


def _blocks_read(model: type[ReconstructionOptions]) -> list[str]:
    """The options of a model that only the tuning of blocks reads."""
    names = ("iterations", "reconstruction_samples", *JointReconstructionOptions.own())
    return [name for name in names if name in model.model_fields]
