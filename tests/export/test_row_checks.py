"""What rows of the user's own must return."""

import pytest
from torch import nn

from compresskit.export.row_checks import notes, runner


@pytest.mark.parametrize(
    ("written", "found", "says"),
    [
        (True, None, ""),
        (True, ["a line"], ""),
        (True, "a line", "must return a list of notes or None, and returned str"),
        (True, [1], "must return a list of notes or None, and returned list"),
        (False, [], "must write the file"),
    ],
)
def test_an_exporter_writes_and_notes(tmp_path, written, found, says):
    if written:
        (tmp_path / "model.bin").write_text("")
    assert notes(found, None, tmp_path / "model.bin", None).startswith(says)
    assert bool(says) == bool(notes(found, None, tmp_path / "model.bin", None))


def test_a_runtime_returns_a_module():
    assert runner(nn.Identity(), None) == ""
    assert runner(len, None) == "must return an nn.Module, and returned builtin_function_or_method"
