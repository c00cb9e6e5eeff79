"""The picture of a bench."""

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.inspection.bench_plot import check_plot, write_plot

pytestmark = pytest.mark.integration


def test_a_point_a_row_is_drawn_and_an_old_plot_stays(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"model": name, "runtime": "eager", "best": best, "latency": [{"batch_size": 1, "median_ms": ms}],
         "size_bytes": 10**6, "metric": None}
        for name, best, ms in (("first", True, 1.0), ("second", False, 2.0))
    ]  # fmt: skip
    target = tmp_path / "bench.svg"
    check_plot(str(target), force=False)
    write_plot(str(target), rows)
    assert target.read_text().startswith("<?xml") and "latency" in target.read_text()
    with pytest.raises(InputError, match="exists"):
        check_plot(str(target), force=False)
    with pytest.raises(InputError, match="must end in .png"):
        check_plot("bench.txt", force=True)
