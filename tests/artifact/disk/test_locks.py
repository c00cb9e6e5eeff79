"""One process at a time holds an output, and a dead one holds nothing."""

from __future__ import annotations

import os
import signal

import pytest

from compresskit.artifact.disk.locks import locked, try_lock
from compresskit.core.errors import InputError


def _child_holding(output) -> tuple[int, int]:
    """A process that holds the lock until it is killed: (its id, a pipe that says when)."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with locked(output):
            os.write(writer, b"x")
            signal.pause()
        os._exit(0)
    os.read(reader, 1)
    return child, reader


def test_a_second_process_is_told_who_holds_the_output(tmp_path):
    child, _ = _child_holding(tmp_path / "out")
    try:
        with pytest.raises(InputError, match=rf"in use by process {child} on .* since 2"), locked(tmp_path / "out"):
            pass
        with locked(tmp_path / "another"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]  # of the killed one, and free
    with locked(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path):
    path = tmp_path / ".out.lock"
    first = try_lock(path)
    assert first is not None and try_lock(path) is None
    path.unlink()
    second = try_lock(path)  # another file of the same name
    assert second is not None
    os.close(first)
    assert try_lock(path) is None
    os.close(second)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    says = "cannot write below .*; name another output"
    with pytest.raises(InputError, match=says), locked(tmp_path / "gone" / "out"):
        pass
