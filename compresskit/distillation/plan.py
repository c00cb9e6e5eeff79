"""From options and two models to the objective: runs, matched layers, terms and their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..analysis.dataflow import Features, features
from ..core import distributed
from ..core.errors import CompresskitError, InputError, described, nearest
from ..core.tensors.modules import get_module
from ..core.types import Inputs, Loaded, to_device
from ..evaluation.loss_terms.shapes import class_axis
from ..model.example_inputs import with_batch
from ..training.context import Context
from .cache import LogitCache
from .losses.term import Loss, Setup
from .matching.matching import Pair, aligned, attention_pairs, heads, match, norm_before_relu
from .matching.taps import attention_watched
from .models import Teacher
from .objective import Objective, Taps, WeightedTerm
from .options import DistillOptions
from .tables import LOSSES

_FEATURES = {"features", "before_relu", "embeddings"}


@dataclass(frozen=True)
class Plan:
    """An objective, and what was matched for it."""

    objective: Objective
    pairs: list[Pair]
    cache: LogitCache | None


def make_plan(
    student: Loaded,
    teacher: Teacher,
    options: DistillOptions,
    context: Context,
    losses: Sequence[str] = (),
    *,
    first: float = 1.0,
    keep_logits: bool = True,
) -> Plan:
    """Match layers by a traced run of both models, and make the losses for them.

    Args:
        student: who learns.
        teacher: who teaches.
        options: losses, weights, layers.
        context: data size, seed and device.
        losses: names to make instead of the options' own.
        first: how many times their own weights the losses have at the beginning; they fall linearly.
        keep_logits: open the cache that the options name; False leaves the disk alone.
    Raises:
        InputError: if the models' outputs do not fit together, or a loss asks for what they do not have.
    """
    rows: dict[str, Loss] = {name: LOSSES.load(name) for name in (losses or chosen_losses(options, context))}
    arguments = loss_arguments(rows, options.loss_arg)
    needs = frozenset(need for loss in rows.values() for need in loss.needs)
    _check_targets(needs, options)
    if options.cache and needs - {"labels"}:
        raise InputError(
            f"cache keeps logits only, and {', '.join(options.loss)} needs more of the teacher; leave it out"
        )
    inputs = to_device(_two_inputs(student, context), context.device)
    student.module.to(context.device).eval()
    runs = (features(student.module, inputs), _teacher_features(teacher, inputs))
    if any(loss.compares_outputs for loss in rows.values()):
        _check_outputs(*runs)
    taps = _taps(student, teacher, inputs, runs, needs, options)
    probe = Objective(teacher, [], task_weight=0.0, taps=taps)
    # the example has no targets; class 0 serves for shapes
    with torch.set_grad_enabled("gradients" in needs):
        signals = probe.signals(student.module, inputs, _example_targets(runs[0].output, context.device))
    weights = {name: options.loss_weight.get(name, loss.weight) for name, loss in rows.items()}
    norms = _norms(teacher, runs[1], taps)
    setup = Setup(signals, options.temperature, seed=context.seed, teacher_norms=norms, **_used(options, context))
    terms = [
        WeightedTerm(name, weights[name], loss.make(replace(setup, arguments=arguments[name])), first)
        for name, loss in rows.items()
    ]
    cache, cache_rows = None, None
    if options.cache and keep_logits:
        cache, cache_rows = _cache(teacher, runs[0].output[1:], options, context)
    objective = Objective(
        teacher,
        terms,
        task_weight=task_weight(options, rows),
        taps=taps,
        label_smoothing=options.label_smoothing,
        task_loss=context.loss,
        cache=cache,
        **({"rows": cache_rows} if cache_rows else {}),
    )
    return Plan(objective, list(taps.pairs), cache)


def chosen_losses(options: DistillOptions, context: Context) -> list[str]:
    """The losses that the options name; where they name none, what the task asks for."""
    if "loss" in options.model_fields_set or context.task is None:
        return list(options.loss)
    return [context.task.distillation]


def _two_inputs(student: Loaded, context: Context) -> Inputs:
    """Two inputs, of the data where there is any: its texts and images may have another size than the example."""
    found = None if context.data is None else next(context.data.batches("train", batch_size=2).first(2), None)
    return with_batch(student.example, 2) if found is None else found[0]


def _cache(
    teacher: Teacher, shape: tuple[int, ...], options: DistillOptions, context: Context
) -> tuple[LogitCache, Callable[[Tensor, int], Tensor] | None]:
    """The cache for this teacher and data; where inputs are changed at random, a row is a place in the run."""
    data = context.needs_data()
    record: dict[str, Any] = {"data": data.name, "examples": data.size("train")}
    record |= {"data_key": context.data_key} if context.data_key else {}
    weights = {
        f"{number}.{name}": value
        for number, module in enumerate(teacher.modules)
        for name, value in module.state_dict().items()
    }
    folder = Path(options.cache or "")
    made = partial(LogitCache, folder, shape=shape, weights=weights, largest=options.cache_largest)
    if not (options.augment or options.mixup or options.cutmix):
        return made(rows=_examples(context), record=record), None
    record |= {"seed": context.seed} | options.model_dump(
        include={"augment", "mixup", "cutmix", "batch_size", "train_limit", "epochs"}
    )
    batches = data.batches("train", batch_size=options.batch_size, limit=options.train_limit)
    size = min(options.batch_size, batches.samples)
    steps = math.ceil(options.epochs * max(1, batches.samples // options.batch_size))

    def rows_of(indices: Tensor, step: int) -> Tensor:
        return step * size + distributed.rank() * len(indices) + torch.arange(len(indices))

    return made(rows=steps * size, record=record), rows_of


def task_weight(options: DistillOptions, losses: Mapping[str, Loss]) -> float:
    """Weight of the data's own targets: the options' (0 where labels are ignored), or the losses' papers' smallest."""
    if options.ignores_labels():
        return 0.0
    if options.task_weight is not None:
        return options.task_weight
    return min(loss.task_weight for loss in losses.values())


def loss_arguments(losses: Mapping[str, Loss], given: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Each loss's settings: its defaults with `loss.name` from the options put in.

    Raises:
        InputError: naming the nearest setting.
    """
    known = [f"{name}.{argument}" for name, loss in losses.items() for argument in loss.arguments]
    for key in given:
        if key not in known:
            raise InputError(f"loss_arg {key!r} is no setting of the chosen losses{nearest(key, known)}")
    return {
        name: {
            argument: float(given.get(f"{name}.{argument}", default)) for argument, default in loss.arguments.items()
        }
        for name, loss in losses.items()
    }


def _check_targets(needs: frozenset[str], options: DistillOptions) -> None:
    if "labels" in needs and options.ignores_labels():
        raise InputError("labels are ignored, and a chosen loss needs them; choose other losses or use the labels")
    if "labels" in needs and (options.mixup or options.cutmix):
        raise InputError("mixup and cutmix blend targets, and a chosen loss needs one class an example; leave them out")


def _teacher_features(teacher: Teacher, inputs: Inputs) -> Features:
    try:
        return features(teacher.modules[0], teacher.fit(inputs))
    except CompresskitError:
        raise
    except Exception as error:  # anybody's code
        raise InputError(f"the teacher does not take the student's inputs: {described(error)}") from error


def _check_outputs(student: Features, teacher: Features) -> None:
    if student.output != teacher.output:
        raise InputError(
            f"the student's output has shape {list(student.output)} and the teacher's {list(teacher.output)} for two "
            "examples; give both the same number of classes, e.g. --model-arg num_classes=10"
        )


def _taps(
    student: Loaded,
    teacher: Teacher,
    inputs: Inputs,
    runs: tuple[Features, Features],
    needs: frozenset[str],
    options: DistillOptions,
) -> Taps:
    if options.layers and not needs & _FEATURES:
        raise InputError(f"layers would be ignored: {', '.join(options.loss)} takes no features")
    pairs: list[Pair] = []
    if "heads" in needs and not options.layers:
        runs = aligned(student.module, inputs, runs[0]), aligned(teacher.modules[0], teacher.fit(inputs), runs[1])
    if needs & _FEATURES:
        pairs = match(student.module, runs[0], teacher.modules[0], runs[1], options.layers)
        if not pairs:
            raise InputError("no stages of student and teacher match; name layers, e.g. --layers layer1=layer1")
    if "heads" in needs and not options.layers:
        known = {pair.student.name for pair in pairs}
        found = heads(student.module, inputs, *runs)
        pairs += [pair for pair in found if pair.student.name not in known]
    attention: list[tuple[int, int]] = []
    if "attention" in needs:
        attention = attention_pairs(
            _attention_layers(student.module, inputs), _attention_layers(teacher.modules[0], teacher.fit(inputs))
        )
    return Taps(pairs, (runs[0].classifier, runs[1].classifier), attention, needs)


def _attention_layers(module: Any, inputs: Inputs) -> int:
    with attention_watched() as calls:
        features(module, inputs)
    return len(calls)


def _example_targets(output: tuple[int, ...], device: torch.device) -> Tensor:
    axis = class_axis(output)
    return torch.zeros((*output[:axis], *output[axis + 1 :]), dtype=torch.int64, device=device)


def _examples(context: Context) -> int:
    """One more than the largest index of a training example."""
    if context.data is None:
        return 0
    return int(context.data.batches("train", batch_size=1).order().max()) + 1


def _used(options: DistillOptions, context: Context) -> dict[str, Any]:
    """The examples that the training uses, as fields of Setup: train_limit may leave most of the data out."""
    if context.data is None:
        return {}
    batches = context.data.batches("train", batch_size=1, limit=options.train_limit)
    used = batches.order().sort().values
    rows = torch.full((int(used.max()) + 1,), -1)
    rows[used] = torch.arange(len(used))
    targets = getattr(batches.split, "targets", None)
    classes = None
    if isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
        classes = None if options.ignores_labels() else targets[used]
    return {"examples": len(used), "rows": rows, "classes": classes}


def _norms(teacher: Teacher, teacher_run: Features, taps: Taps) -> list[Any]:
    names = [norm_before_relu(teacher.modules[0], teacher_run, pair.teacher) for pair in taps.pairs]
    return [get_module(teacher.modules[0], name) if name else None for name in names]
