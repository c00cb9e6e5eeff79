"""Modes that see every operation leave torch's compiler alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from compresskit.core.tensors.dispatch import OperationMode, as_written

#: what takes as long to import as torch, or half as long, and what no look at a model needs
HEAVY = ("torch._dynamo", "sympy", "sklearn", "transformers")


class Names(OperationMode):
    """Keeps what ran."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_every_operation_is_seen():
    x = torch.ones(3)
    with Names() as names:
        y = x * 2 + 1
    assert names.seen == ["aten::mul", "aten::add"] and y.tolist() == [3, 3, 3]


@pytest.mark.integration
def test_operations_are_seen_also_inside_of_what_is_compiled():
    compiled = torch.compile(lambda x: torch.relu(x) * 2, backend="eager")
    x = torch.tensor([-1.0, 3.0])
    with Names() as names:
        output = as_written(lambda: compiled(x))
    assert names.seen == ["aten::relu", "aten::mul"] and output.tolist() == [0, 6]


@pytest.mark.integration
def test_what_raises_is_run_once_where_nothing_compiles():
    code = """
from compresskit.core.tensors.dispatch import as_written
calls = []
def run():
    calls.append(1)
    raise KeyError("mine")
try:
    as_written(run)
except KeyError as error:
    print(error, len(calls), as_written(lambda: 5))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["'mine'", "1", "5"], done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "builtin:digits_cnn_small"),
        (
            "prune",
            "builtin:digits_cnn_small",
            "--data",
            "digits",
            "--ratio",
            "0.3",
            "--latency-rounds",
            "2",
            "-o",
            "out",
        ),
        ("decompose", "builtin:digits_cnn_small", "--target-macs", "0.8", "--latency-rounds", "0", "-o", "out"),
        ("quantize", "builtin:digits_cnn_small", "--data", "digits", "--latency-rounds", "0", "-o", "out"),
    ],
    ids=lambda command: command[0],
)
def test_commands_do_not_wait_for_what_they_do_not_need(command, tmp_path):
    code = f"""
import json, sys
from compresskit.cli import main
sys.argv = ["compresskit", *{command!r}]
try:
    main.main()
finally:
    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
