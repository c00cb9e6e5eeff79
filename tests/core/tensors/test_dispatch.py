"""The mode that watches operations without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from compresskit.core.tensors.dispatch import EagerMode


class Names(EagerMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_operations_are_seen_also_inside_of_what_is_compiled():
    compiled = torch.compile(lambda x: torch.relu(x) * 2, backend="eager")
    x = torch.tensor([-1.0, 3.0])
    with Names() as mode:
        output = compiled(x)
    assert mode.seen == ["relu", "mul"] and output.tolist() == [0, 6]


def test_counting_macs_leaves_the_compiler_out():
    code = (
        "import sys\nfrom torch import nn, zeros\nfrom compresskit.analysis.measure.macs import count_macs\n"
        "count_macs(nn.Linear(3, 4), zeros(1, 3))\nprint('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
