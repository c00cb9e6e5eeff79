"""The table of a bench."""

from compresskit.pipeline.inspection.bench_table import bench_rows


def _row(**changed):
    latency = [{"batch_size": 1, "low_ms": 1.0, "median_ms": 2.0, "high_ms": 3.0, "per_second": 500.0}]
    return {"model": "a", "runtime": "eager", "best": True, "latency": latency, "size_bytes": 2_500_000} | changed


def test_columns_are_those_that_were_measured():
    columns, cells = bench_rows([_row(metric=None), _row(metric=None, best=False, size_bytes=None)])
    assert columns == ["model", "runtime", "latency", "a second", "size"]
    assert cells[0] == ["* a", "eager", "2.00 ms (1.00-3.00)", "500", "2.50 MB"]
    assert cells[1][0] == "a" and cells[1][-1] == "not measured"
    metric = {"name": "top1", "value": 0.5, "low": 0.4, "high": 0.6}
    columns, cells = bench_rows([_row(metric=metric, cold_start_ms=12.3, peak_memory_bytes=1_000_000)])
    assert columns[-4:] == ["cold start", "memory", "size", "top1"]
    assert cells[0][-4:] == ["12 ms", "1.0 MB", "2.50 MB", "0.5000 [0.400, 0.600]"]
