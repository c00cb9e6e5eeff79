"""The proof of a transformers folder: loaded in a fresh process, it computes what the model computes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.errors import InputError
from ...core.tensors.dtypes import widened
from ...core.types import Loaded, call, main_output
from .. import folders

_SCRIPT = Path(folders.__file__).with_name("fresh_process.py")
#: largest accepted difference, relative to the largest output; a 16-bit model may take another kernel
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Proof:
    """What a fresh process found.

    Attributes:
        loader: the class that loaded the folder, e.g. AutoModelForCausalLM.
        difference: largest absolute difference of the first output.
        scale: largest absolute value of the model's own.
        generated: ids of a greedy continuation, where one was asked for and the model has one.
        error: why the folder did not load or run; "" where it did.
        generate_error: why it computes outputs, and yet generates nothing; "" where it does, or was not asked to.
    """

    loader: str = ""
    difference: float = float("inf")
    scale: float = 0.0
    generated: Tensor | None = None
    error: str = ""
    generate_error: str = ""

    def reason(self, dtype: torch.dtype) -> str:
        """Why the folder is not what the model is; "" where it is."""
        if self.error:
            return f"transformers does not load it: {self.error}"
        if self.difference <= TOLERANCE.get(dtype, 1e-4) * max(self.scale, 1e-12):
            return ""
        return f"it is another model: its first output differs by {self.difference:.2g}, of {self.scale:.2g}"


def named_inputs(loaded: Loaded) -> dict[str, Tensor]:
    """A model's example as keyword tensors.

    Raises:
        InputError: if it has no names.
    """
    example = loaded.example
    if isinstance(example, dict):
        return {name: value for name, value in example.items() if isinstance(value, Tensor)}
    tensors = [example] if isinstance(example, Tensor) else list(example)
    main = getattr(loaded.module, "main_input_name", None)
    if len(tensors) == 1 and isinstance(main, str) and isinstance(tensors[0], Tensor):
        return {main: tensors[0]}
    raise InputError(f"model {loaded.name!r}: its example inputs have no names; give them as --input NAME=SHAPE")


@torch.no_grad()
def own_output(loaded: Loaded) -> Tensor:
    """The first output of a model on its example, in float32."""
    return widened(main_output(call(loaded.module.eval(), loaded.example))).float()


def prove(jobs: Sequence[tuple[Path, dict[str, Tensor], Tensor]], *, new_tokens: int = 0) -> list[Proof]:
    """Load folders in one fresh process, and compare what they compute.

    Args:
        jobs: (folder, keyword inputs, the first output that is wanted).
        new_tokens: length of a greedy continuation of models that generate; 0 for none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        listed: list[dict[str, Any]] = []
        for number, (folder, inputs, _) in enumerate(jobs):
            given, written = Path(scratch, f"{number}.in.safetensors"), Path(scratch, f"{number}.out.safetensors")
            save_file({name: value.cpu().contiguous().clone() for name, value in inputs.items()}, given)
            names = {"folder": str(folder), "inputs": str(given), "outputs": str(written)}
            listed.append({**names, "generate": new_tokens})
        file = Path(scratch, "jobs.json")
        file.write_text(json.dumps(listed), encoding="utf-8")
        run = subprocess.run([sys.executable, str(_SCRIPT), str(file)], capture_output=True, text=True, cwd=scratch)
        lines = [json.loads(line[7:]) for line in run.stdout.splitlines() if line.startswith("RESULT ")]
        lines += [{"error": (run.stderr.strip().splitlines() or ["the process ended"])[-1]}] * (len(jobs) - len(lines))
        return [
            _compared(line, job["outputs"], wanted) for line, job, (*_, wanted) in zip(lines, listed, jobs, strict=True)
        ]


def _compared(line: dict[str, Any], outputs: str, wanted: Tensor) -> Proof:
    if "error" in line:
        return Proof(error=line["error"])
    found = load_file(outputs)
    output = found["output"]
    if output.shape != wanted.shape:
        return Proof(line["class"], error=f"gives {list(output.shape)} where the model gives {list(wanted.shape)}")
    gap = torch.where(output == wanted, torch.zeros(()), (output - wanted).abs())
    scale = wanted[wanted.isfinite()].abs().max() if wanted.isfinite().any() else torch.zeros(())
    return Proof(line["class"], float(gap.max()), float(scale), found.get("ids"), generate_error=line["generate_error"])
