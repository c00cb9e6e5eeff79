"""What the system refuses is said with how to fix it."""

from __future__ import annotations

import errno
import os

import pytest

from compresskit.core.errors import InputError, nearest, system_error, unwritable


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "Permission denied; give yourself permission (chmod, chown), or name another path"),
        (errno.EROFS, "Read-only file system; the file system is mounted for reading alone; name a path on another"),
        (errno.ENOSPC, "No space left on device; make room, or name a path on another disk"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_number_of_the_system_has_its_remedy(number, says):
    assert system_error(OSError(number, os.strerror(number), "file")) == says


def test_a_folder_that_cannot_be_written_always_has_one():
    error = unwritable("/x", OSError(errno.ENOENT, "No such file or directory"))
    assert isinstance(error, InputError)
    assert str(error) == "cannot write below '/x': No such file or directory; name another output"


def test_a_long_list_of_choices_is_cut_and_counted():
    assert nearest("zzz", ["a", "b"]) == "; choose from a, b"
    said = nearest("zzz", [f"layer{number}" for number in range(100)])
    assert said.endswith("layer29 and 70 more") and said.startswith("; choose from layer0, layer1,")
