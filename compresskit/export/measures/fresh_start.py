"""Loads a model and runs it once, as an application does that starts. Run as a script.

    python fresh_start.py JOB

JOB is JSON: {model, runtime, arrays, names, threads, loading}; `arrays` is an .npz file with arrays 0, 1, ... of all
inputs. One line on stdout, RESULT and JSON: milliseconds of loading and of the first run, and the peak of memory above
what the process took with its libraries imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def memory_bytes(key: str) -> int | None:
    """A figure of this process that Linux keeps (VmRSS: now, VmHWM: at most so far)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def open_onnxruntime(job: dict[str, Any], arrays: list[Any]) -> Callable[[], Callable[[], Any]]:
    """Imports ONNX Runtime; the function returned loads, the one that it returns runs."""
    import onnxruntime

    def load() -> Callable[[], Any]:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = job["threads"]
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(job["model"], settings, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return lambda: session.run(None, feed_of(names, job["names"], arrays))

    return load


def open_openvino(job: dict[str, Any], arrays: list[Any]) -> Callable[[], Callable[[], Any]]:
    """The same for OpenVINO."""
    import openvino

    def load() -> Callable[[], Any]:
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": job["threads"], "PERFORMANCE_HINT": "LATENCY",
            "EXECUTION_MODE_HINT": "ACCURACY",  # as runtimes/openvino.py has it
        }  # fmt: skip
        compiled = core.compile_model(core.read_model(job["model"]), "CPU", settings)
        names = [port.get_any_name() if port.get_names() else str(place) for place, port in enumerate(compiled.inputs)]
        given = feed_of(names, job["names"], arrays)
        return lambda: compiled.create_infer_request().infer([given[name] for name in names])

    return load


def open_executorch(job: dict[str, Any], arrays: list[Any]) -> Callable[[], Callable[[], Any]]:
    """The same for ExecuTorch."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    tensors = [torch.from_numpy(array) for array in arrays]

    def load() -> Callable[[], Any]:
        portable_lib._unsafe_reset_threadpool(job["threads"])
        program = Runtime.get().load_program(job["model"])
        method: Any = program.load_method("forward")
        return lambda: (method.execute(tensors), program)

    return load


def open_eager(job: dict[str, Any], arrays: list[Any]) -> Callable[[], Callable[[], Any]]:
    """The same for a model string in PyTorch."""
    import torch

    from compresskit.artifact.source import load_model
    from compresskit.core.types import call

    torch.set_num_threads(job["threads"])
    tensors = [torch.from_numpy(array) for array in arrays]
    inputs: Any = dict(zip(job["names"], tensors, strict=True)) if job["names"] else tuple(tensors)

    def load() -> Callable[[], Any]:
        module = load_model(job["model"], **job["loading"]).module.eval()

        def run() -> Any:
            with torch.no_grad():
                return call(module, inputs)

        return run

    return load


OPENERS = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "executorch": open_executorch,
    "eager": open_eager,
}


def feed_of(names: list[str], given: list[str], arrays: list[Any]) -> dict[str, Any]:
    """Arrays by the names of a graph's inputs: their own names, else their order."""
    if given and set(names) <= set(given):
        return {name: arrays[given.index(name)] for name in names}
    return dict(zip(names, arrays, strict=True))


def main() -> None:
    """Do the job, and print what it took."""
    import numpy as np

    job = json.loads(sys.argv[1])
    with np.load(job["arrays"]) as file:
        arrays = [file[str(place)] for place in range(len(file.files))]
    load = OPENERS[job["runtime"]](job, arrays)
    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    run = load()
    loaded = time.perf_counter()
    run()
    ended = time.perf_counter()
    peak = memory_bytes("VmHWM")
    found = {
        "load_ms": (loaded - start) * 1e3,
        "first_run_ms": (ended - loaded) * 1e3,
        "peak_memory_bytes": None if before is None or peak is None else max(peak - before, 0),
    }
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
