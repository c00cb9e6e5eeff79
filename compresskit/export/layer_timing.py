"""Time that single layers take inside ONNX Runtime, as its own profile has it, in float and in int8."""

from __future__ import annotations

import ast
import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..analysis.measure.latency import take_turns
from ..core.errors import require
from ..core.tensors.devices import on_cpu
from ..core.types import Inputs, call, to_device
from ..training.context import Profile
from .exporters.export_program import export_program
from .exporters.onnx import export_onnx
from .runtimes.exported import Exported, Runner
from .runtimes.onnxruntime import onnxruntime

_WARM_UP, _ROUNDS = 3, 20
_TIME = "_kernel_time"
_MADE_UP = re.compile(r"(_token_\d+|_nchwc|_nhwc)+$")  # what the runtime appends to names of nodes it rewrote
_COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SCOPES = "pkg.torch.onnx.name_scopes"  # torch.onnx notes here which modules a node was in, outermost first


def profiles(modules: list[nn.Module], example: Inputs, names: Iterable[str]) -> list[Profile]:
    """Run models in turn in ONNX Runtime on one thread, and read each layer's time from the runtime's profiles.

    A layer's nodes are those that came from it, the quantizers of its input among them. What the runtime merges into
    them (an activation) counts with them; what it merges away counts nowhere.

    Args:
        modules: models that hold the same layers, in different number types.
        example: inputs of the batch size to time.
        names: the layers.
    Raises:
        InputError: if ONNX Runtime is not installed, or a model cannot be exported.
    """
    require("onnxruntime", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.onnx" for number in range(len(modules))]
        runners = [
            _runner(module, example, path, path.with_suffix("")) for module, path in zip(modules, paths, strict=True)
        ]
        for _ in range(_WARM_UP + _ROUNDS):
            for runner in runners:
                call(runner, example)
        return [
            _read(path, Path(runner.session.end_profiling()), names)
            for path, runner in zip(paths, runners, strict=True)
        ]


def latencies_ms(modules: list[nn.Module], example: Inputs, rounds: int = _ROUNDS) -> list[float]:
    """Milliseconds of a forward of each model in ONNX Runtime on one thread, the best of rounds taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        runners = [_runner(module, example, Path(folder) / f"{number}.onnx") for number, module in enumerate(modules)]
        times = take_turns([partial(call, runner, example) for runner in runners], rounds=rounds)
        return [one.best_ms for one in times]


def _runner(module: nn.Module, example: Inputs, path: Path, profile: Path | None = None) -> Runner:
    example = to_device(example, torch.device("cpu"))  # where the runtime computes
    with on_cpu(module):
        program = export_program(module, example)
    export_onnx(program, path)
    return onnxruntime(Exported(module, program, path, example, 1), profile)


def _read(model: Path, profile: Path, names: Iterable[str]) -> Profile:
    """Medians over the runs of a profile, by the layer that each node of the model came from."""
    events = [event for event in json.loads(profile.read_text()) if event.get("cat") == "Node"]
    microseconds: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["name"].endswith(_TIME):
            microseconds[_MADE_UP.sub("", event["name"].removesuffix(_TIME))].append(event["dur"])
    owner = owners(model, set(names), microseconds)
    layers: dict[str, float] = defaultdict(float)
    total = 0.0
    for node, durations in microseconds.items():
        per_run = max(len(durations) // (_WARM_UP + _ROUNDS), 1)
        middle = per_run * statistics.median(durations[per_run * _WARM_UP :]) / 1e3
        total += middle
        if node in owner:
            layers[owner[node]] += middle
    return Profile(dict(layers), total)


def owners(model: Path, names: set[str], timed: Iterable[str]) -> dict[str, str]:
    """Which of the layers each timed node came from; nodes that came from none are left out.

    A node goes by its own name; one that the runtime merged with what follows may go by the name of the last output
    instead, and is then the layer nearest before that output that has no node of its own.

    Args:
        model: the ONNX file that was run.
        names: the layers.
        timed: names of the nodes that the runtime ran.
    """
    graph = require("onnx", "onnx").load(model, load_external_data=False).graph
    by_node = {node.name: owner for node in graph.node if (owner := _layer_of(node, names))}
    makers = {output: node for node in graph.node for output in node.output}
    found = {name: by_node[name] for name in timed if name in by_node}
    claimed = {name for name in found if "quantize" not in name}
    for name in timed:
        if name in by_node or name not in makers:
            continue
        queue = [makers[name]]
        for node in queue:
            if node.op_type in _COMPUTING and node.name in by_node:
                if node.name not in claimed:
                    claimed.add(node.name)
                    found[name] = by_node[node.name]
                    break
                continue
            queue += [makers[value] for value in node.input if value in makers]
    return found


def _layer_of(node: Any, names: set[str]) -> str | None:
    """The innermost of the layers that a node was in when torch exported it."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    return next((scope for scope in reversed(ast.literal_eval(scopes)) if scope in names), None)
