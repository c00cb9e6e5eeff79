"""Options of what trains: the loop's own, and those of steps that recover or are training. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from ..core.effort import EffortOptions, Efforts, Passes
from ..core.options import GuardOptions, OptionGroup, Options, choice, option
from ..core.shares import Share
from ..data.tables import AUGMENTATIONS


class TrainOptions(Options):
    """The training loop's options; fine-tuning, recovery, distillation and QAT share them."""

    renamed = {"schedule": "lr_schedule"}

    epochs: float = option(1.0, "passes over the training data; fractions are allowed", section="Training", gt=0)
    lr: float = option(0.01, "peak learning rate", section="Training", gt=0)
    optimizer: Literal["sgd", "adamw"] = option("sgd", "optimizer", section="Training")
    momentum: float = option(0.9, "SGD momentum", section="Training", ge=0, lt=1)
    weight_decay: float = option(5e-4, "weight decay, not applied to biases and norms", section="Training", ge=0)
    lr_schedule: Literal["cosine", "one-cycle", "constant"] = option(
        "cosine", "how the learning rate moves after warm-up", section="Training"
    )
    warmup: Share = option(0.05, "share of all steps spent warming up linearly", section="Training", ge=0, lt=1)
    batch_size: int = option(128, "images a step, over all processes", section="Training", ge=1)
    label_smoothing: Share = option(0.0, "label smoothing", section="Training", ge=0, lt=1)
    grad_clip: float | None = option(None, "largest gradient norm", section="Training", gt=0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto",
        "number type of the forward pass; auto takes a short one where the device is faster with it",
        section="Training",
    )
    early_stop: int | None = option(
        None, "stop after this many evaluations without a better validation metric", section="Training", ge=1
    )
    keep: Literal["best", "last"] = option(
        "best", "which weights to keep: best on the validation split, or the last", section="Training"
    )
    train_limit: int | None = option(None, "use only this many training examples", section="Training", ge=1)
    augment: list[Annotated[str, choice(AUGMENTATIONS)]] = option(
        [], "random changes of training inputs; in the order of the list below, your own after them",
        section="Augmentation",
    )  # fmt: skip
    mixup: float = option(0.0, "alpha of mixup, blending pairs of examples; 0 is off", section="Augmentation", ge=0)
    cutmix: float = option(
        0.0, "alpha of CutMix, pasting a box of another image; 0 is off", section="Augmentation", ge=0
    )
    ema: float | None = option(
        None,
        "keep an exponential moving average of the weights with this decay, e.g. 0.999",
        section="Training",
        gt=0,
        lt=1,
    )
    batch_norm: Literal["synchronized", "local"] = option(
        "synchronized",
        "under torchrun: batch statistics over all processes, or over each process alone",
        section="Training",
    )
    norm_batches: int = option(
        20,
        "training batches from which batch-norm statistics are taken anew before weights are judged; 0 is off",
        section="Training",
        ge=0,
    )
    sharding: Literal["none", "fsdp"] = option(
        "none",
        "under torchrun: a whole model in each process, or weights and optimizer sharded (FSDP)",
        section="Training",
    )
    checkpoint_steps: int | None = option(
        None,
        "write a resumable checkpoint also every this many steps; one is written each epoch anyway",
        section="Training",
        ge=1,
    )
    tensorboard: bool = option(
        False, "also log to TensorBoard, beside training.csv in the step's folder", section="Training"
    )

    def passes_of_training(self, examples: int) -> Passes:
        """The examples that this training sends through the model."""
        return Passes(backward=self.epochs * min(examples, self.train_limit or examples))

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        found = super().packages()
        if self.tensorboard:
            found["torch.utils.tensorboard"] = "tensorboard"
        rows = (AUGMENTATIONS[name] for name in self.augment if AUGMENTATIONS.builtin(name))
        return found | {row.attributes["imports"]: "vision" for row in rows if "imports" in row.attributes}


#: epochs of a training whose length was left open
_EPOCHS: Efforts = {"fast": {"epochs": 0.5}, "best": {"epochs": 3.0}}


class RecoverOptions(OptionGroup, TrainOptions):
    """How a changed model is trained afterwards; learned steps and penalties before a cut train by the same options."""

    short = "mode"

    mode: Literal["none", "finetune", "kd"] = option(
        "none", "train after the step: fine-tune, or distill from the original (kd)", section="Recovery"
    )
    labels: Literal["use", "ignore"] = option(
        "use", "with recover kd: learn from the data's own targets beside the original model, or from it alone",
        section="Recovery",
    )  # fmt: skip

    lora: int | None = option(
        None, "train low-rank adapters of this rank, of linear layers, in the place of all weights, and merge them at "
        "the end (Hu et al., 2022)", section="Recovery", ge=1,
    )  # fmt: skip

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        return super().packages() | ({"peft": "peft"} if self.lora is not None else {})

    @model_validator(mode="after")
    def _labels_need_a_teacher(self) -> Self:
        if self.lora is not None and self.mode == "none":
            raise ValueError("lora would be ignored: recover is 'none'; set recover to finetune or kd")
        if self.labels == "ignore" and self.mode == "finetune":
            raise ValueError("labels ignore would be ignored: recover is 'finetune'; set recover to kd")
        return self


class StepOptions(EffortOptions, GuardOptions):
    """Base of the techniques that change a model: guards, and how accuracy is recovered afterwards."""

    renamed = {"schedule": "lr_schedule"}
    efforts: ClassVar[Efforts] = _EPOCHS

    recover: RecoverOptions = option(
        "none", "train after the step: fine-tune, or distill from the original (kd); a mapping says how, "
        "e.g. {mode: kd, epochs: 2}", section="Recovery",
    )  # fmt: skip

    #: a subclass whose training options also serve another purpose (QAT, iterative schedules) names the
    #: condition under which they are used
    def trains(self) -> bool:
        """Whether this step trains at all, so that training options mean something."""
        return self.recover.mode != "none"

    def has_teacher(self) -> bool:
        """Whether this step learns from the original model, so that it can do without labels."""
        return self.recover.mode == "kd"

    def effort_reads(self, name: str) -> bool:
        """Whether a step with these options reads an option that an effort could set."""
        return super().effort_reads(name) and (name != "epochs" or self.trains())

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model, roughly."""
        training = self.recover.passes_of_training(examples) if self.trains() else Passes()
        taught = Passes(forward=training.backward if self.recover.mode == "kd" else 0.0)
        return super().passes(examples).plus(training).plus(taught)

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        mode = self.recover.mode
        return [*super().data_readers(), *([f"recover {mode} needs data"] if mode != "none" else [])]

    def without_training(self) -> Self:
        """The same step as a dry run does it: without any training."""
        return self.model_copy(update={"recover": RecoverOptions()})

    @model_validator(mode="after")
    def _training_options_need_training(self) -> Self:
        if self.recover.labels == "ignore" and not self.has_teacher():
            raise ValueError(f"labels ignore would be ignored: recover is {self.recover.mode!r}; set recover to kd")
        ignored = sorted(self.recover.model_fields_set - {"mode", "labels"})
        if ignored and not self.trains():
            raise ValueError(f"{', '.join(ignored)} would be ignored: recover is 'none'; set recover to finetune or kd")
        return self


class TrainStepOptions(EffortOptions, GuardOptions, TrainOptions):
    """Base of the techniques that are training themselves (train, distill)."""

    efforts: ClassVar[Efforts] = _EPOCHS

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through the model."""
        return super().passes(examples).plus(self.passes_of_training(examples))

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return ["training needs data", *super().data_readers()]

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers afterwards: training changes values only."""
        return True
