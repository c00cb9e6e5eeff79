"""Latency of an exported model against float in the same runtime, with the same threads, and against eager PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ...analysis.measure.latency import Times, quartiles, take_turns
from ...core.tensors.dtypes import cast, fit_inputs
from ...core.tensors.modules import evaluating
from ...core.types import Inputs, Loaded, invoke
from ...model.example_inputs import with_batch
from ...model.exported import exported_program
from ...quantization.layers.quantized_layer import quantized_layers
from ..float_reference import float_twin
from ..integers.same_runtime import in_runtime
from ..options import ExportOptions
from ..tables import RUNTIMES

_TURN_SECONDS = 0.1


#: a model in what is exported with it
Around = Callable[[nn.Module], nn.Module]


class Contest(NamedTuple):
    """What is timed in turn.

    Attributes:
        eager: the model in float in eager PyTorch.
        float_runner: the same in the runtime.
        runner: the exported model there.
    """

    eager: nn.Module
    float_runner: nn.Module
    runner: nn.Module


@contextmanager
def contest(
    loaded: Loaded,
    runner: nn.Module,
    options: ExportOptions,
    original: Loaded | None = None,
    *,
    around: Around | None = None,
) -> Iterator[Contest]:
    """The exported model beside float in the same runtime, whose file is there until the context ends.

    Args:
        loaded: the model that was exported.
        runner: it in its runtime.
        options: format, runtime, threads.
        original: a model to time against in the place of `loaded` with its quantized layers in float.
        around: what the exported model has around it, so that eager PyTorch has it, too.
    """
    reference = loaded if original is None else original
    has_integers = any(layer.spec.parameters for layer in quantized_layers(reference.module).values())
    twin = replace(reference, module=float_twin(reference.module)) if has_integers else reference
    eager = twin.module if around is None else around(twin.module)
    if options.takes_model() or RUNTIMES.attribute(options.chosen_runtime(), "simulated", False):
        yield Contest(eager, eager, runner)  # PyTorch itself is what computes there
        return
    if original is None and not has_integers:
        yield Contest(eager, runner, runner)
        return
    inputs = cast(with_batch(reference.example, options.batch_size), torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        yield Contest(eager, in_runtime(twin, inputs, options, Path(folder) / f"float{options.suffix()}"), runner)


def timed(taking_part: Contest, example: Inputs, options: ExportOptions) -> dict[str, Any]:
    """Latency at the batch size of the options, and at batch 1 beside it where that is another and the model takes it.

    Returns:
        latency_ms, float_latency_ms (in the same runtime), eager_float_latency_ms; speedup against float in the same
        runtime and speedup_to_eager, each with its quartiles; batch_1: the same for single inputs.
    """
    found = _at(taking_part, with_batch(example, options.batch_size), options)
    fixed = options.fixed_batch() is not None or exported_program(taking_part.eager) is not None
    if options.batch_size != 1 and not fixed:
        found["batch_1"] = _at(taking_part, with_batch(example, 1), options)
    return found


def _at(taking_part: Contest, inputs: Inputs, options: ExportOptions) -> dict[str, Any]:
    modules = list(dict.fromkeys(taking_part))
    times = dict(zip(modules, in_turn(modules, inputs, options.rounds, options.threads), strict=True))
    eager, reference, own = (times[module] for module in taking_part)
    speedup, to_eager = quartiles(reference.over(own)), quartiles(eager.over(own))
    return {
        "latency_ms": own.median_ms,
        "float_latency_ms": reference.median_ms,
        "eager_float_latency_ms": eager.median_ms,
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "speedup_to_eager": to_eager.median,
        "speedup_to_eager_low": to_eager.low,
        "speedup_to_eager_high": to_eager.high,
    }


def in_turn(modules: Sequence[nn.Module], inputs: Inputs | Sequence[Inputs], rounds: int, threads: int) -> list[Times]:
    """Times of modules that take turns in this process, with a number of threads.

    Args:
        modules: in eager PyTorch or in runtimes, opened with the same number of threads.
        inputs: of all, or a list with those of each.
        rounds: turns of each.
        threads: of PyTorch meanwhile.
    """
    each = inputs if isinstance(inputs, list) else [inputs] * len(modules)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with evaluating(*modules):
            runs = [partial(invoke, one, fit_inputs(one, given)) for one, given in zip(modules, each, strict=True)]
            return take_turns(runs, rounds=rounds, turn_seconds=_TURN_SECONDS, clock="wall")
    finally:
        torch.set_num_threads(before)
