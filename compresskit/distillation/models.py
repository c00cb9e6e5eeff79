"""The two sides of a distillation: loading teachers and students, and fitting inputs from one to the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.data import preprocess
from ..core.errors import InputError
from ..core.types import Context, Inputs, Loaded, Preprocessing, call, main_output
from ..core.weights import load_into, read_weights
from .options import DistillOptions


def load(context: Context, string: str, weights: str | None) -> Loaded:
    """The model of a string with the weights of a file.

    Raises:
        InputError: if either names nothing loadable.
    """
    if context.load is None:
        raise InputError(f"{string!r} cannot be loaded here: this run does not load further models")
    loaded = context.load(string)
    if weights:
        load_into(loaded.module, read_weights(weights), f"weights {weights!r}")
    return loaded


def choose_models(current: Loaded, options: DistillOptions, context: Context) -> tuple[Loaded, list[Loaded]]:
    """The student and its teachers, as the options name them."""
    student = current
    if options.student:
        student = load(context, options.student, options.student_weights)
    if options.teacher:
        files = options.teacher_weights or [None] * len(options.teacher)
        teachers = [load(context, string, file) for string, file in zip(options.teacher, files, strict=True)]
    else:
        teachers = [current if student is not current else context.original]
    # a model cannot teach itself while it changes: its present state does
    return student, [teacher.clone() if teacher.module is student.module else teacher for teacher in teachers]


def refit(have: Preprocessing, want: Preprocessing) -> Callable[[Inputs], Inputs]:
    """A function that turns inputs made for one model into inputs for another: normalization, size, channels."""
    if have == want or not (want.mean or want.size or want.channels):
        return lambda inputs: inputs

    def convert(inputs: Inputs) -> Inputs:
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            return inputs
        if have.mean:
            mean, std = (inputs.new_tensor(values).reshape(1, -1, 1, 1) for values in (have.mean, have.std))
            inputs = inputs * std + mean
        return preprocess(inputs, want)

    return convert


class Teacher:
    """One or several frozen models; several answer with the mean of their probabilities.

    Args:
        models: the teachers.
        have: the preprocessing that the batches were made with.
        device: where they run.
    """

    def __init__(self, models: list[Loaded], have: Preprocessing, device: torch.device):
        self.modules = [model.module.eval().to(device) for model in models]
        self._fits = [refit(have, model.preprocessing) for model in models]

    @torch.no_grad()
    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits, (batch, ..., classes); of an ensemble, the logarithm of the mean probability."""
        answers = [main_output(call(module, fit(inputs))) for module, fit in zip(self.modules, self._fits, strict=True)]
        if len(answers) == 1:
            return answers[0]
        return torch.stack([answer.float().softmax(-1) for answer in answers]).mean(0).log()
