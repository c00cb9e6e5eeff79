"""Options models: the one place where a technique's options are declared.

Flags, YAML keys, validation, help, JSON schema and the docs table all come from these fields.
Imports pydantic but never torch, so help stays fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from .costs import COSTS, Amount, guard_of
from .fields import (
    Choice as Choice,
    Model,
    amount_fields,
    amounts_of,
    choice as choice,
    option as option,
    registry_of as registry_of,
    with_fields,
)
from .registry import Registry

_TOO_LARGE = 1 << 63  # tensors count in 64 bits, and so does everything that reads an option
LARGEST_SEED = (1 << 32) - 1  # NumPy's generators take no larger one


def _names_keys(annotation: Any) -> bool:
    """Whether it is the keys of a mapping that name rows, and not its values."""
    if get_origin(annotation) is dict:
        return registry_of(get_args(annotation)[0]) is not None
    return any(_names_keys(part) for part in get_args(annotation))


def _largest_integer(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, Mapping):
        return max(map(_largest_integer, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(_largest_integer, value), default=0)
    return 0


class Options(BaseModel):
    """Base of all options models: unknown keys are errors, values never change after validation.

    Attributes:
        renamed: key that was an option once -> the option to give in its place, for the error that says so.
        refused: key that is an option of other techniques -> why it is none here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def renamed_keys(cls) -> dict[str, str]:
        """`renamed` of this model and its bases, without what is an option here."""
        found = {key: new for base in reversed(cls.__mro__) for key, new in vars(base).get("renamed", {}).items()}
        return {key: new for key, new in found.items() if key not in cls.model_fields}

    @model_validator(mode="wrap")
    @classmethod
    def _says_what_became_of_keys(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            lines = [cls._explained(line) for line in error.errors()]
            if all(isinstance(line["type"], str) for line in lines):
                raise
            raise ValidationError.from_exception_data(error.title, lines) from None

    @classmethod
    def _explained(cls, error: Any) -> InitErrorDetails:
        """A line of a validation error; that of a key that is known from elsewhere says what to do about it."""
        key = str(error["loc"][0]) if error["loc"] else ""
        kind: Any = error["type"]
        if kind == "extra_forbidden" and key in cls.renamed_keys():
            kind = PydanticCustomError("known_key", f"{key} is now {cls.renamed_keys()[key]}")
        elif kind == "extra_forbidden" and key in cls.refused:
            kind = PydanticCustomError("known_key", f"{key} {cls.refused[key]}")
        return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=error.get("ctx", {}))

    @field_validator("*")
    @classmethod
    def _numbers_fit_64_bits(cls, value: Any) -> Any:
        if _largest_integer(value) >= _TOO_LARGE:
            raise ValueError("a whole number must lie below 2**63")
        return value

    def prints_only(self) -> bool:
        """Whether a step with these options only prints something about the model, so that nothing is written."""
        return False

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each, e.g. `training needs data`."""
        return []

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers, by name and kind, after a step with these options."""
        return False

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        return {}

    def named_rows(self) -> Iterator[tuple[str, Registry[Any], str]]:
        """(option, registry, name) of each row of a registry that these options name, defaults included."""
        for option_name, field in type(self).model_fields.items():
            registry = registry_of(field.annotation, field.metadata)
            if registry is None:
                continue
            value = getattr(self, option_name)
            if isinstance(value, dict) and not _names_keys(field.annotation):
                value = list(value.values())
            names = value if isinstance(value, list | tuple | dict) else [value]
            yield from ((option_name, registry, name) for name in names if isinstance(name, str))

    def times_itself(self) -> bool:
        """Whether a step with these options measures its latency in its own way, whatever `latency_rounds` says."""
        return False

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        """Further models that these options name: model string and what goes with it, as `load_model` takes it."""
        return []

    def refuse_unread(self, readers: Mapping[str, Sequence[str]], by: str) -> None:
        """Refuse given options that nothing reads with the value that another option has.

        Args:
            readers: option -> the values with which it is read.
            by: the other option.
        Raises:
            ValueError: naming the first such option, and what it is for.
        """
        value = getattr(self, by)
        for name, values in readers.items():
            if name in self.model_fields_set and value not in values:
                raise ValueError(f"{name} would be ignored: {by} is {value!r}; it is for {', '.join(values)}")


def with_guards(model: type[Model]) -> type[Model]:
    """Add a field `max_NAME` for each cost."""
    help = "largest allowed {noun}: an amount, e.g. {example}, or a share of the original model's, e.g. 50%"
    fields = amount_fields(COSTS, guard_of, help, kept=False, section="Guards")
    return with_fields(model, fields)


@with_guards
class GuardOptions(Options):
    """What a step must hold; a missed guard exits 3 and keeps the last good artifact."""

    max_drop: float | None = option(
        None, "largest allowed loss of the metric against the original model, e.g. 0.01", section="Guards", ge=0
    )
    min_speedup: float | None = option(
        None, "smallest allowed measured speed-up against the original model, e.g. 1.5", section="Guards", gt=0
    )

    def limits(self) -> dict[str, Amount]:
        """The guarded costs: name -> largest amount."""
        return amounts_of(self, guard_of)

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return ["max_drop needs data"] if self.max_drop is not None else []


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
    warmup: float = option(0.05, "share of all steps spent warming up linearly", section="Training", ge=0, lt=1)
    batch_size: int = option(128, "images a step, over all processes", section="Training", ge=1)
    label_smoothing: float = option(0.0, "label smoothing", section="Training", ge=0, lt=1)
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
    augment: list[Literal["crop", "flip", "randaugment"]] = option(
        [],
        "random changes of training images: shifted crop, left-right flip, RandAugment (needs torchvision)",
        section="Augmentation",
    )
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

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        found = super().packages()
        if self.tensorboard:
            found["torch.utils.tensorboard"] = "tensorboard"
        if "randaugment" in self.augment:
            found["torchvision.transforms.v2"] = "vision"
        return found


class StepOptions(GuardOptions, TrainOptions):
    """Base of the techniques that change a model: guards, and how accuracy is recovered afterwards."""

    recover: Literal["none", "finetune", "kd"] = option(
        "none", "train after the step: plain fine-tuning, or distillation from the original model", section="Recovery"
    )

    #: a subclass whose training options also serve another purpose (QAT, iterative schedules) names the
    #: condition under which they are used
    def trains(self) -> bool:
        """Whether this step trains at all, so that training options mean something."""
        return self.recover != "none"

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return [*super().data_readers(), *([f"recover {self.recover} needs data"] if self.recover != "none" else [])]

    def without_training(self) -> StepOptions:
        """The same step as a dry run does it: without any training."""
        return self.model_copy(update={"recover": "none"})

    @model_validator(mode="after")
    def _training_options_need_training(self) -> StepOptions:
        ignored = sorted(set(self.model_fields_set) & set(TrainOptions.model_fields))
        if ignored and not self.trains():
            raise ValueError(f"{', '.join(ignored)} would be ignored: recover is 'none'; set recover to finetune or kd")
        return self


class TrainStepOptions(GuardOptions, TrainOptions):
    """Base of the techniques that are training themselves (train, distill)."""

    def data_readers(self) -> list[str]:
        """What in these options cannot do without data, a clause each."""
        return ["training needs data", *super().data_readers()]

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers afterwards: training changes values only."""
        return True
