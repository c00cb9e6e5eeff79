"""The two sides of a distillation: loading teachers and students, and fitting inputs from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.types import Inputs, Loaded, Preprocessing, call, main_output
from ..data.preprocessing import preprocess
from ..model.checkpoints.weights import load_into, read_weights
from ..training.context import Context
from .options import DistillOptions


def load(context: Context, string: str, weights: str | None, arguments: Mapping[str, Any]) -> Loaded:
    """The model of a string with the weights of a file.

    Args:
        context: loads model strings by the run's own rules.
        string: a model string.
        weights: a weights file, or None.
        arguments: of the model's factory.
    Raises:
        InputError: if either names nothing loadable.
    """
    if context.load is None:
        raise InputError(f"{string!r} cannot be loaded here: this run does not load further models")
    loaded = context.load(string, model_args=dict(arguments)) if arguments else context.load(string)
    if weights:
        lines = load_into(loaded.module, read_weights(weights), f"weights {weights!r}")
        loaded.notes += lines
        loaded.random_weights = False
        for line in lines:
            context.log(line)
    return loaded


def choose_teachers(current: Loaded, options: DistillOptions, context: Context) -> list[Loaded]:
    """The teachers that the options name; by default the model that was there first.

    Without a new student that is the original model; a new student is taught by the current one.
    """
    if options.teacher:
        files: Sequence[str | None] = options.teacher_weights or [None] * len(options.teacher)
        teachers = [
            load(context, string, file, options.teacher_args)
            for string, file in zip(options.teacher, files, strict=True)
        ]
    else:
        teachers = [current if options.makes_student() else context.original]
    # a model cannot teach itself while it changes: its present state does
    return [teacher.clone() if teacher.module is current.module else teacher for teacher in teachers]


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


_JUDGED = 1000  # examples that say whether a teacher knows anything


class _Fitted(nn.Module):
    """A module behind what fits inputs to it."""

    def __init__(self, module: nn.Module, fit: Callable[[Inputs], Inputs]):
        super().__init__()
        self.module, self._fit = module, fit

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        if named or len(inputs) != 1:
            return self.module(*inputs, **named)
        return self.module(self._fit(inputs[0]))


class Teacher:
    """One or several frozen models; several answer with the mean of their probabilities.

    Args:
        models: the teachers; features are taken from the first.
        have: the preprocessing that the batches were made with.
        device: where they run.
    """

    def __init__(self, models: list[Loaded], have: Preprocessing, device: torch.device):
        self.names = [model.name for model in models]
        self.modules = [model.module.eval().to(device) for model in models]
        self._fits = [refit(have, model.preprocessing) for model in models]

    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits, (batch, ..., classes); of an ensemble, the logarithm of the mean probability."""
        answers = [main_output(call(module, fit(inputs))) for module, fit in zip(self.modules, self._fits, strict=True)]
        if len(answers) == 1:
            return answers[0]
        return torch.stack([answer.float().softmax(-1) for answer in answers]).mean(0).log()

    def fit(self, inputs: Inputs) -> Inputs:
        """Inputs as the first teacher takes them."""
        return self._fits[0](inputs)

    def doubts(self, context: Context) -> list[str]:
        """A line for each teacher that does no better than chance on held-out examples, and so would teach noise."""
        metric, data = context.metric, context.data
        if metric is None or data is None or metric.chance(data.num_classes) is None:
            return []
        found = []
        for name, module, fit in zip(self.names, self.modules, self._fits, strict=True):
            batches = data.batches("val", batch_size=context.eval_batch, limit=_JUDGED)
            score = metric(_Fitted(module, fit).eval(), batches, context.device)
            if not metric.beats_chance(score.low, score.high, data.num_classes):
                found.append(
                    f"teacher {name!r} scores {metric.name} {score.value:.4f} on held-out examples, no better than "
                    f"chance ({metric.chance(data.num_classes):.4f}): it teaches noise; look at its weights, the order "
                    "of its classes, and what is applied to the inputs"
                )
        return found
