"""Options of the `distill` technique. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from ..core.effort import Passes
from ..core.errors import nearest
from ..core.options import choice, option
from ..core.shares import Share
from ..training.options import TrainStepOptions
from .tables import BETWEEN_EXAMPLES, LOSSES


class DistillOptions(TrainStepOptions):
    """Train a student from a teacher: the current model from the original, or a new student from the current model."""

    def passes(self, examples: int) -> Passes:
        """The examples that a step with these options sends through a model, the teacher's among them."""
        shown = self.passes_of_training(examples).backward
        return Passes(forward=shown, backward=shown * self.student_width**2 * self.student_depth)

    teacher: list[str] = option(
        [],
        "teacher's model string; default: the original model (the current one where a new student takes its place); "
        "several form an ensemble",
        section="Models",
        takes="model",
    )
    teacher_args: dict[str, float | int | str] = option(
        {}, "arguments of the teachers' factories, e.g. num_classes=10", section="Models"
    )
    teacher_weights: list[str] = option([], "weights file of each teacher", section="Models")
    student: str | None = option(
        None, "model string of a new student that replaces the current model", section="Models", takes="model"
    )
    student_weights: str | None = option(None, "weights file of the new student", section="Models")
    student_args: dict[str, float | int | str] = option(
        {}, "arguments of the new student's factory, e.g. num_classes=10", section="Models"
    )
    student_width: Share = option(
        1.0,
        "make a new student of the current model with this share of its channels, e.g. 0.5",
        section="Models",
        gt=0,
        le=1,
    )
    student_depth: Share = option(
        1.0,
        "make a new student of the current model with this share of its blocks, e.g. 0.5",
        section="Models",
        gt=0,
        le=1,
    )
    unlabelled: str | None = option(
        None,
        "folder of images, or .npz with an array x, that replaces the training images; labels are not needed",
        section="Models",
    )
    loss: list[Annotated[str, choice(LOSSES)]] = option(
        ["kd"],
        f"distillation loss; several are added up. Those that compare examples ({', '.join(BETWEEN_EXAMPLES)}) compare "
        "only the examples of one process under torchrun",
        section="Losses",
        min_length=1,
    )
    loss_weight: dict[str, float] = option({}, "weight of a loss, e.g. kd=0.5; default: its paper's", section="Losses")
    loss_arg: dict[str, float] = option({}, "a loss's own settings, e.g. dkd.beta=8 or rkd.angle=0", section="Losses")
    task_weight: float | None = option(
        None,
        "weight of the loss against the data's own targets; default: the smallest of the losses' papers",
        section="Losses",
        ge=0,
    )
    labels: Literal["use", "ignore"] = option(
        "use", "learn from the data's own targets beside the teacher, or from the teacher alone", section="Losses"
    )
    hint_epochs: float | None = option(
        None,
        "FitNets' first stage: train up to the hinted layer alone for this many epochs; the other losses follow",
        section="Losses",
        gt=0,
    )
    hint_anneal: float | None = option(
        None,
        "after hint_epochs, the other losses start at this many times their weight and fall to it linearly; FitNets' "
        "paper: 4, with loss_weight kd=1, task_weight 1 and temperature 3",
        section="Losses",
        gt=1,
    )
    cache: str | None = option(
        None,
        "folder for the teacher's logits, computed once and found again by later epochs and runs",
        section="Losses",
    )
    cache_largest: int | None = option(
        None,
        "of each position's logits the cache keeps only so many of the largest, and how probable all others are "
        "together; for large vocabularies, e.g. 64",
        section="Losses",
        ge=1,
    )
    layers: dict[str, str] = option(
        {},
        "student layers and the teacher layers they learn from, e.g. layer1=layer1; default: matched by stage",
        section="Losses",
    )
    temperature: float = option(4.0, "divides logits before the softmax", section="Losses", gt=0)

    def makes_student(self) -> bool:
        """Whether a new student takes the current model's place."""
        return self.student is not None or self.student_width < 1 or self.student_depth < 1

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        """Teachers and student: model string and what goes with it."""
        files: Sequence[str | None] = self.teacher_weights or [None] * len(self.teacher)
        teachers = [
            (string, {"weights": file, "model_args": dict(self.teacher_args)})
            for string, file in zip(self.teacher, files, strict=True)
        ]
        given = {"weights": self.student_weights, "model_args": dict(self.student_args)}
        return teachers + ([(self.student, given)] if self.student else [])

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers afterwards: not where a new student takes its place."""
        return not self.makes_student()

    def ignores_labels(self) -> bool:
        """Whether the teacher alone teaches."""
        return self.labels == "ignore" or self.unlabelled is not None

    @field_validator("teacher", "teacher_weights", "loss", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("loss_weight")
    @classmethod
    def _weights_are_not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        for name, weight in value.items():
            if weight < 0:
                raise ValueError(f"the weight of {name} must not be negative, got {weight:g}")
        return value

    @model_validator(mode="after")
    def _options_fit_together(self) -> DistillOptions:
        for name in self.loss_weight:
            if name not in self.loss:
                raise ValueError(f"loss_weight names {name!r}, which is not among the losses{nearest(name, self.loss)}")
        if self.teacher_weights and len(self.teacher_weights) != len(self.teacher):
            raise ValueError(
                f"{len(self.teacher_weights)} teacher_weights for {len(self.teacher)} teachers; name one for each"
            )
        if self.student_weights and not self.student:
            raise ValueError("student_weights needs student; the current model has its weights already")
        if self.student_args and not self.student:
            raise ValueError("student_args needs student; the current model is built already")
        if self.student and (self.student_width < 1 or self.student_depth < 1):
            raise ValueError(
                "student names a model and student_width or student_depth makes one; give only one of them"
            )
        if self.ignores_labels() and self.task_weight:
            raise ValueError(f"task_weight {self.task_weight:g} needs labels, and labels are ignored; leave it out")
        if self.hint_epochs and "fitnet" not in self.loss:
            raise ValueError("hint_epochs would be ignored: fitnet is not among the losses")
        if self.hint_anneal and not self.hint_epochs:
            raise ValueError("hint_anneal would be ignored: it is for the stage after hint_epochs; set hint_epochs")
        if self.cache_largest and not self.cache:
            raise ValueError("cache_largest would be ignored: there is no cache; set cache to a folder")
        if self.teacher_args and not self.teacher:
            raise ValueError("teacher_args needs teacher; the default teacher is built already")
        return self
