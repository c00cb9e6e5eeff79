"""Signals, closed streams and full disks end a command in one line, a known exit code, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import compresskit as package
from compresskit.artifact.disk import files
from compresskit.cli.process import Interruption, disk_error, interrupted, interruption_says, resuming
from compresskit.core.errors import InputError

pytestmark = pytest.mark.integration

REPOSITORY = Path(package.__file__).resolve().parent.parent


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    """A line of bash in which `ck` is the command."""
    script = f'ck() {{ {sys.executable} -m compresskit "$@"; }}; {line}'
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("ck schema >&-", 0, ""),
        ("ck schema | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        (
            "ck schema > /dev/full",
            2,
            "compresskit: file system: No space left on device; make room, or name a path on another disk\n",
        ),
        ("ck nonsense 2>&-", 2, ""),
        ("ck nonsense 2> /dev/full", 2, ""),
        ("ck schema <&- >/dev/null", 0, ""),
    ],
)
def test_closed_and_full_streams(tmp_path, line, code, says):
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (code, says)


def test_the_first_file_that_is_opened_does_not_become_a_closed_stdout(tmp_path):
    assert shell("ck init builtin:lenet5 -o r.yaml >&-", tmp_path).returncode == 0
    assert (tmp_path / "r.yaml").read_text().rstrip().splitlines()[-1] != "r.yaml"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_an_interrupt_once(name):
    number, before = getattr(signal, name), {}
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[one] = signal.signal(one, signal.SIG_DFL)
    interruption = Interruption()
    try:
        interruption.listen()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)  # while everything tidies up
        assert interruption.came
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        Interruption().listen()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def test_a_full_disk_is_found_in_the_causes_of_an_error():
    error = RuntimeError("a library's own")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "x.db")
    assert disk_error(error) == "x.db: No space left on device; make room, or name a path on another disk"
    assert disk_error(RuntimeError("(sqlite3.OperationalError) database or disk is full")) == "disk is full"
    assert disk_error(ValueError("no such thing")) is None


def test_a_disk_that_is_full_while_weights_are_written_leaves_the_old_ones(tmp_path):
    with files.replacing(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text('{"format_version": 1, "weights_sha256": 0, "edits": [], "source": {}}')
    child = os.fork()
    if not child:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            with files.replacing(tmp_path / "out", force=True) as folder:
                save_file({"a": np.zeros(1 << 16)}, folder / "model.safetensors")
        except InputError as error:
            code = 0 if "cannot write" in str(error) and "\n" not in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("command", ["export", "init"])
def test_a_command_that_writes_a_file_never_replaces_what_it_reads_nor_what_is_no_file(
    tmp_path, invoke, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def make(): ...\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("net.py")
    says = {"net.py": "is an input", "folder": "not a plain file", "link": "symbolic link", "/dev/null": "not a plain"}
    for output, reason in says.items():
        code, _, err = invoke(command, "net.py:make", "-o", output, "--force")
        assert code == 2 and reason in err
    assert (tmp_path / "net.py").read_text() == "def make(): ...\n"


def test_whatever_user_code_writes_stdout_holds_one_document(tmp_path):
    (tmp_path / "net.py").write_text(
        "import os, subprocess, torch\n"
        "def factory():\n"
        "    print('a'); os.write(1, b'b\\n'); subprocess.run(['echo', 'c'])\n"
        "    return torch.nn.Sequential(torch.nn.Linear(64, 10))\n"
        ""
    )
    done = shell("ck quantize net.py:factory --input 64 --latency-rounds 0 --max-bytes 10 --json -q -o out", tmp_path)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 3 and error["kind"] == "guard_missed" and error["exit_code"] == 3
    assert error["artifact"].endswith("out.steps/0-quantize.missed") and "max_bytes is 10" in error["messages"][0]
    assert {"a", "b", "c"} <= set(done.stderr.splitlines())


def test_an_interruption_says_how_to_go_on():
    with interruption_says(f"go on with: {resuming(['compresskit', 'run', 'my recipe.yaml'])}"):
        assert interrupted() == (
            "interrupted; nothing half-written is left; go on with: compresskit run 'my recipe.yaml' --resume"
        )
    assert interrupted() == "interrupted; nothing half-written is left"
    assert resuming(["compresskit", "prune", "m", "--resume"]) == "compresskit prune m --resume"
