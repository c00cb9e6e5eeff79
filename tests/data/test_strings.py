"""Data strings that name nothing are refused before anything is read."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.data.strings import check_named


@pytest.mark.parametrize(
    ("string", "said"),
    [
        ("digit", "unknown data 'digit'; did you mean 'digits'?"),
        ("imagefoldr:photos", "unknown data 'imagefoldr:photos'; did you mean 'imagefolder'?"),
        ("./photos", "unknown data './photos'; for a folder of images by class say 'imagefolder:./photos'"),
        ("table.csv", "unknown data 'table.csv'; did you mean 'csv:table.csv'?"),
        ("npz", "data 'npz': say where it is, e.g. npz:PATH"),
        ("imagefolder:photo", "data directory '{}/photo' does not exist; did you mean 'photos'?"),
        ("csv:table.csw", "data file '{}/table.csw' does not exist; did you mean 'table.csv'?"),
        ("make.py:data", "data 'make.py:data': file 'make.py' does not exist"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(string, said, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "table.csv").touch()
    form, _, location = string.partition(":")
    if form in ("imagefolder", "csv"):
        string = f"{form}:{tmp_path}/{location}"
    with pytest.raises(InputError) as error:
        check_named(string)
    assert str(error.value).startswith(said.format(tmp_path))


def test_what_may_be_there_is_left_to_its_reader(tmp_path):
    (tmp_path / "make.py").touch()
    found = ["digits", "none", "in-memory:data", f"imagefolder:{tmp_path}", f"csv:{tmp_path}/part-*.csv"]
    for string in [*found, "hf:some/set", "wds:x-{000..012}.tar", f"{tmp_path}/make.py:data", "package.module:data"]:
        check_named(string)
    with pytest.raises(InputError, match="does not exist"):
        check_named(f"{tmp_path}/made.py:data")
