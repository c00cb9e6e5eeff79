"""Time that single layers take inside ONNX Runtime or OpenVINO, as their own profiles have it, in float and int8."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..analysis.measure.latency import take_turns
from ..core.errors import InputError, require
from ..core.tensors.devices import on_cpu
from ..core.types import Inputs, call, to_device
from ..training.context import Profile
from .exporters.export_program import export_program
from .exporters.onnx import export_onnx
from .integers.compute_nodes import layer_of, origins, plain_name
from .runtimes.exported import Exported, Runner, in_order
from .runtimes.onnxruntime import onnxruntime

_WARM_UP, _ROUNDS = 3, 20
_TIME = "_kernel_time"


def profiles(
    modules: list[nn.Module],
    example: Inputs,
    names: Iterable[str],
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
) -> list[Profile]:
    """Run models in turn in a runtime, and read each layer's time from the runtime's profiles.

    A layer's nodes are those that came from it, the quantizers of its input among them. What the runtime merges into
    them (an activation) counts with them; what it merges away counts nowhere.

    Args:
        modules: models that hold the same layers, in different number types.
        example: inputs of the batch size to time.
        names: the layers.
        runtime: onnxruntime or openvino.
        threads: of the runtime.
    Raises:
        InputError: if the runtime is not installed or has no profile, or a model cannot be exported.
    """
    if runtime not in ("onnxruntime", "openvino"):
        raise InputError(f"layers are timed in onnxruntime and openvino, and the runtime is {runtime!r}")
    require(runtime, "onnx" if runtime == "onnxruntime" else "openvino")
    timed = _Profiled if runtime == "onnxruntime" else _ProfiledInOpenVino
    with tempfile.TemporaryDirectory() as folder:
        running = [
            timed(module, example, Path(folder) / f"{number}.onnx", threads) for number, module in enumerate(modules)
        ]
        for _ in range(_WARM_UP + _ROUNDS):
            for one in running:
                one.run(example)
        return [one.profile(set(names)) for one in running]


class _Profiled:
    """A model in ONNX Runtime, which writes a profile."""

    def __init__(self, module: nn.Module, example: Inputs, path: Path, threads: int):
        self.path, self.runner = path, _runner(module, example, path, path.with_suffix(""), threads)

    def run(self, example: Inputs) -> None:
        call(self.runner, example)

    def profile(self, names: set[str]) -> Profile:
        """Medians over the runs, by layer."""
        return _read(self.path, Path(self.runner.session.end_profiling()), names)


class _ProfiledInOpenVino:
    """A model in OpenVINO, which tells each run's times afterwards."""

    def __init__(self, module: nn.Module, example: Inputs, path: Path, threads: int):
        program = export_program(module, example)
        export_onnx(program, path, runtime="openvino")
        core, settings = require("openvino", "openvino").Core(), {"INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
        fixed = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
        self.path, self.compiled = path, core.compile_model(core.read_model(str(path)), "CPU", settings | fixed)
        self.request = self.compiled.create_infer_request()
        self.names = [port.get_any_name() for port in self.compiled.inputs]
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def run(self, example: Inputs) -> None:
        given = in_order(example, self.names)
        self.request.infer({place: tensor.numpy() for place, tensor in enumerate(given)})
        for one in self.request.get_profiling_info():
            self.seconds[one.node_name].append(one.real_time.total_seconds())

    def profile(self, names: set[str]) -> Profile:
        """Medians over the runs, by layer."""
        merged = {
            operation.get_friendly_name(): operation.get_rt_info()["originalLayersNames"].astype(str).split(",")
            for operation in self.compiled.get_runtime_model().get_ordered_ops()
        }
        owner = owners(self.path, names, {name: merged.get(name, ()) for name in self.seconds})
        layers: dict[str, float] = defaultdict(float)
        medians = {name: 1e3 * statistics.median(found[_WARM_UP:]) for name, found in self.seconds.items()}
        for name, milliseconds in medians.items():
            if name in owner:
                layers[owner[name]] += milliseconds
        return Profile(dict(layers), sum(medians.values()))


def latencies_ms(modules: list[nn.Module], example: Inputs, rounds: int = _ROUNDS) -> list[float]:
    """Milliseconds of a forward of each model in ONNX Runtime on one thread, the best of rounds taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        runners = [_runner(module, example, Path(folder) / f"{number}.onnx") for number, module in enumerate(modules)]
        times = take_turns([partial(call, runner, example) for runner in runners], rounds=rounds)
        return [one.best_ms for one in times]


def _runner(module: nn.Module, example: Inputs, path: Path, profile: Path | None = None, threads: int = 1) -> Runner:
    example = to_device(example, torch.device("cpu"))  # where the runtime computes
    with on_cpu(module):
        program = export_program(module, example)
    export_onnx(program, path)
    return onnxruntime(Exported(module, program, path, example, threads), profile)


def _read(model: Path, profile: Path, names: Iterable[str]) -> Profile:
    """Medians over the runs of a profile, by the layer that each node of the model came from."""
    events = [event for event in json.loads(profile.read_text()) if event.get("cat") == "Node"]
    microseconds: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["name"].endswith(_TIME):
            microseconds[plain_name(event["name"].removesuffix(_TIME))].append(event["dur"])
    owner = owners(model, set(names), list(microseconds))
    layers: dict[str, float] = defaultdict(float)
    total = 0.0
    for node, durations in microseconds.items():
        per_run = max(len(durations) // (_WARM_UP + _ROUNDS), 1)
        middle = per_run * statistics.median(durations[per_run * _WARM_UP :]) / 1e3
        total += middle
        if node in owner:
            layers[owner[node]] += middle
    return Profile(dict(layers), total)


def owners(model: Path, names: set[str], timed: Iterable[str] | Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Which of the layers each timed node came from; nodes that came from none are left out.

    Args:
        model: the ONNX file that was run.
        names: the layers.
        timed: names of the nodes that the runtime ran, with the names of what they were merged from where it tells.
    """
    ran = timed if isinstance(timed, Mapping) else dict.fromkeys(timed, ())
    found = {name: layer_of(node, names) for name, node in origins(model, ran).items()}
    return {name: layer for name, layer in found.items() if layer}
