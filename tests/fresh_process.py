"""Fresh processes that start without importing torch again: forks of one that has imported it and done nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = """
import importlib, json, os, sys, traceback
import torch
for line in sys.stdin:
    request = json.loads(line)
    for name in request["imports"]:
        importlib.import_module(name)
    child = os.fork()
    if not child:
        code = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.chdir(request["cwd"])
            sys.argv = ["-c", *request["arguments"]]
            exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs `python -P -c CODE ARGUMENT ...` in forks of one process.

    Attributes:
        imports: what that process imports before it forks; libraries alone, so that each fork imports ours.
    """

    def __init__(self, server: subprocess.Popen[str], folder: Path):
        self.server, self.folder = server, folder
        self.imports: tuple[str, ...] = ("numpy", "pydantic", "safetensors.torch")

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` returns for such a command; its output is captured."""
        assert command[:3] == [sys.executable, "-P", "-c"]
        out, err = self.folder / "out", self.folder / "err"
        request = {"code": command[3], "arguments": command[4:], "cwd": str(Path.cwd()), "imports": self.imports}
        self.server.stdin.write(json.dumps({**request, "out": str(out), "err": str(err)}) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """Start the process that forks; its files are in a folder."""
    command = [sys.executable, "-P", "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Forks(server, folder)
        server.stdin.close()
