"""Integers against floats in one runtime: a quantized model beside its layers in float, and what is left in float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ...analysis.measure.latency import Quartiles, take_turns
from ...core.types import Inputs, Loaded, call
from ...quantization.layers.quantized_layer import quantized_layers
from ..exporters.traced import traced
from ..exporters.with_past import completed
from ..float_reference import float_twin
from ..layer_timing import profiles
from ..options import PROFILED, ExportOptions
from ..runtimes.exported import Exported
from ..tables import EXPORTERS, RUNTIMES

_SLOWER = 0.98  # below this share of the float model's speed it is no noise that integers are slower
_TURN_SECONDS = 0.05


class Comparison(NamedTuple):
    """Latency of one input or batch: of the integers, of floats in the same runtime, and the quotient by round."""

    integers_ms: float
    floats_ms: float
    speedup: Quartiles


def runs_apart(module: nn.Module, options: ExportOptions) -> bool:
    """Whether a model has integers whose runtime computes with them, so that a float one beside it says something."""
    if options.takes_model() or RUNTIMES.attribute(options.chosen_runtime(), "simulated", False):
        return False
    layers = quantized_layers(module).values()
    return any(layer.spec.parameters and layer.number_format.lowering == "integers" for layer in layers)


def in_runtime(loaded: Loaded, inputs: Inputs, options: ExportOptions, path: Path) -> nn.Module:
    """A model written to a path and opened in the options' runtime."""
    trace = traced(loaded, options)
    EXPORTERS.load(options.format)(trace.program, path, options)
    example = completed(inputs, trace.example)
    exported = Exported(loaded.module, trace.program, path, example, options.threads)
    return RUNTIMES.load(options.chosen_runtime())(exported)


def _in_turn(runners: Sequence[nn.Module], inputs: Inputs, options: ExportOptions) -> list[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        runs: list[Callable[[], Any]] = [partial(call, runner, inputs) for runner in runners]
        return take_turns(runs, rounds=options.rounds, turn_seconds=_TURN_SECONDS, clock="wall")
    finally:
        torch.set_num_threads(threads)


def warnings_of(found: Comparison, runtime: str) -> list[str]:
    """A line where integers are slower than floats in the same runtime."""
    if found.speedup.median >= _SLOWER:
        return []
    mend = "keep fastest leaves in float what does not pay, or " if runtime in PROFILED else ""
    return [
        f"warning: slower than float: {found.speedup.median:.2f}x the speed of the same layers in float in {runtime} "
        f"({found.integers_ms:.3g} ms against {found.floats_ms:.3g}); {mend}ship the float model"
    ]


class Kept(NamedTuple):
    """The fastest of what was tried.

    Attributes:
        module: the model to ship.
        in_float: its layers that were quantized and compute in float now.
        note: a line for the report.
        table: a row a layer with its times.
    """

    module: nn.Module
    in_float: list[str]
    note: str
    table: list[dict[str, Any]]


def fastest(loaded: Loaded, inputs: Inputs, options: ExportOptions) -> Kept:
    """Leave layers in float that are slower in integers in the runtime, and check the whole.

    Single layers are timed by the runtime's own profile, which sees no copies between them. So the model with those
    layers in float, with all of them in float, and with none are timed as wholes, and the fastest is kept.

    Args:
        loaded: the quantized model.
        inputs: the batch to time.
        options: format, runtime, threads, rounds.
    Raises:
        InputError: if the runtime has no profile of layers.
    """
    runtime, module = options.chosen_runtime(), loaded.module
    names = [name for name, layer in quantized_layers(module).items() if layer.spec.parameters]
    floats, integers = profiles([float_twin(module), module], inputs, names, runtime=runtime, threads=options.threads)
    table: list[dict[str, Any]] = [
        {"layer": name, "float_ms": floats.layers[name], "int8_ms": integers.layers[name]}
        for name in names
        if name in floats.layers and name in integers.layers
    ]
    slower = [name for name in names if integers.layers.get(name, 0.0) > floats.layers.get(name, float("inf"))]
    tried = {"all in integers": module, "all in float": float_twin(module)}
    if 0 < len(slower) < len(names):
        tried["some in float"] = float_twin(module, slower)
    with tempfile.TemporaryDirectory() as folder:
        runners = [
            in_runtime(replace(loaded, module=one), inputs, options, Path(folder) / f"{number}{options.suffix()}")
            for number, one in enumerate(tried.values())
        ]
        times = dict(zip(tried, _in_turn(runners, inputs, options), strict=True))
    best = min(tried, key=lambda name: times[name].best_ms)
    left: dict[str, list[str]] = {"all in integers": [], "all in float": names, "some in float": slower}
    in_float = left[best]
    shown = ", ".join(f"{name} {own.best_ms:.3g} ms" for name, own in times.items())
    note = f"keep fastest: {best} ({len(in_float)} of {len(names)} layers in float); {shown}"
    return Kept(tried[best], in_float, note, table)
