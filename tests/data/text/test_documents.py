"""Documents of files."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.data.text.documents import Documents, has_column, text_files


def test_plain_files_are_a_document_each_and_tables_one_a_row(tmp_path):
    (tmp_path / "b.md").write_text("# b\n")
    (tmp_path / "a.csv").write_text('id,text\n1,"x, y"\n2,z\n')
    (tmp_path / ".hidden").write_text("no")
    files = text_files(tmp_path)
    assert [path.name for path in files] == ["a.csv", "b.md"]
    assert list(Documents(files, "x")) == ["x, y", "z", "# b\n"]
    assert has_column(files[0], ("text",)) and not has_column(files[0], ("label",)) and not has_column(files[1], ("x",))


def test_the_fingerprint_is_of_content_and_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,other\nx,y\n")
    one = Documents((tmp_path / "a.csv",), "x")
    before = one.fingerprint()
    assert before == Documents((tmp_path / "a.csv",), "elsewhere").fingerprint()
    assert before != Documents((tmp_path / "a.csv",), "x", "other").fingerprint()
    (tmp_path / "a.csv").write_text("text,other\nz,y\n")
    assert one.fingerprint() != before


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"a.txt' is not UTF-8"):
        list(Documents((tmp_path / "a.txt",), "x"))
    with pytest.raises(InputError, match="pairs of texts are columns of a .jsonl or .csv file"):
        list(Documents((tmp_path / "a.txt",), "x", "a", "b"))
