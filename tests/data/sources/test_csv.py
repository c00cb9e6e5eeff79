"""Columns of CSV files."""

from __future__ import annotations

from compresskit.data.dataset import open_data


def test_csv_regression_and_classes(tmp_path):
    rows = "\n".join(f"{i},{i * 2},{i * 0.5 + 0.25}" for i in range(40))
    (tmp_path / "r.csv").write_text(f"a,b,y\n{rows}\n")
    data = open_data(f"csv:{tmp_path / 'r.csv'}")
    assert data.num_classes is None
    assert data.input_shape == (2,)
    (tmp_path / "c.csv").write_text("label,a\n" + "\n".join(f"{i % 3},{i}" for i in range(40)) + "\n")
    assert open_data(f"csv:{tmp_path / 'c.csv'}").num_classes == 3


def test_whole_numbers_written_as_floats_are_no_classes(tmp_path):
    (tmp_path / "count.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 4}.0" for i in range(40)) + "\n")
    data = open_data(f"csv:{tmp_path / 'count.csv'}")
    assert data.num_classes is None
    assert next(iter(data.batches("test", batch_size=4)))[1].is_floating_point()
