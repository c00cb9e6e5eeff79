"""The options of reconstruction, which prune, quantize and decompose share. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from ...core.costs import parse
from ...core.options import option
from ...training.options import StepOptions


def _bytes(given: Any) -> Any:
    if given is None:
        return None
    amount = parse("activation_memory", "memory", given)
    if amount.is_share or amount.value < 0:
        raise ValueError(f"activation_memory must be a size, e.g. 2GB, got {given!r}")
    return round(amount.value)


class ReconstructionOptions(StepOptions):
    """Tune a changed model block by block, without labels, so that each block's output comes back."""

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

    def without_training(self) -> Self:
        """The same step as a dry run does it: nothing is tuned either."""
        return super().without_training().model_copy(update={"reconstruct": "none"})

    @model_validator(mode="after")
    def _blocks_read_their_options(self) -> Self:
        names = ("iterations", "reconstruction_samples", *JointReconstructionOptions.own())
        own = [name for name in names if name in type(self).model_fields]
        self.refuse_unread(dict.fromkeys(own, ("auto", "block")), "reconstruct")
        self.refuse_unread({"reconstruction_seconds": ("auto",)}, "reconstruct")
        return self


class JointReconstructionOptions(ReconstructionOptions):
    """The same, and in the end all blocks are tuned at once to the original's output.

    Models of few bits are not, because that diverged.
    """

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
