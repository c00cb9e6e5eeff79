"""Names of classes from a file."""

import pytest

from compresskit.core.errors import InputError
from compresskit.export.handover.label_file import read_labels
from compresskit.export.options import ExportOptions


def test_a_name_a_line(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\nd\u00e4ne\n", encoding="utf-8")
    assert read_labels(str(file)) == ["cat", "d\u00e4ne"]


def test_what_is_no_list_of_names_is_refused_before_work(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_labels(str(tmp_path / "bytes"))
    with pytest.raises(ValueError, match="does not exist"):
        ExportOptions(labels=str(tmp_path / "none.txt"))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match="labels would be ignored: format is 'litert'"):
        ExportOptions(format="litert", labels=str(tmp_path / "names.txt"))
