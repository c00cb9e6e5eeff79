"""Cold start: how long a fresh process takes to load a model and run it once, and how much memory that takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

from ...core.types import Inputs
from .. import measures

_SCRIPT = Path(measures.__file__).with_name("fresh_start.py")
#: runtimes that the script opens files in
RUNTIMES = ("onnxruntime", "openvino", "executorch", "eager")
_SECONDS = 600


class ColdStart(NamedTuple):
    """What a fresh process found.

    Attributes:
        load_ms: reading the file and making a session of it, once libraries are imported.
        first_run_ms: the first run after that.
        peak_memory_bytes: the most that the process took above what it had with its libraries imported; None where the
            system does not say it.
    """

    load_ms: float
    first_run_ms: float
    peak_memory_bytes: int | None

    def record(self) -> dict[str, Any]:
        """JSON-able, with the sum."""
        return {"cold_start_ms": self.load_ms + self.first_run_ms, **self._asdict()}


def cold_start(
    model: str, runtime: str, inputs: Inputs, threads: int, loading: Mapping[str, Any] | None = None
) -> ColdStart | str:
    """Load a model in a fresh process, and run it once there.

    Args:
        model: an exported file; for eager PyTorch a model string.
        runtime: one of RUNTIMES.
        inputs: one batch.
        threads: of the runtime.
        loading: for eager PyTorch, what `load_model` takes beside the string.
    Returns:
        what it took, or the reason why it was not measured.
    """
    if runtime not in RUNTIMES:
        return f"not measured in runtime {runtime}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npz"
        leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        arrays: dict[str, Any] = {str(number): leaf.detach().cpu().numpy() for number, leaf in enumerate(leaves)}
        np.savez(path, **arrays)
        names = list(inputs) if isinstance(inputs, dict) else []
        job = {"model": model, "runtime": runtime, "arrays": str(path), "names": names, "threads": threads}
        command = [sys.executable, str(_SCRIPT), json.dumps({**job, "loading": dict(loading or {})})]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            return f"took more than {_SECONDS} s"
    lines = [line[7:] for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        return (run.stderr.strip().splitlines() or ["the process ended"])[-1][:200]
    return ColdStart(**json.loads(lines[-1]))
