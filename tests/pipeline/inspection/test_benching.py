"""Which rows of a bench are the best; runtimes of models and of files."""

import pytest

import compresskit
from compresskit.core.errors import InputError
from compresskit.pipeline.inspection.bench_options import BenchOptions
from compresskit.pipeline.inspection.benching import _mark_best, bench
from compresskit.pipeline.recipe import RecipeOptions


def _row(ms, size, value=None, higher=True):
    metric = None if value is None else {"value": value, "higher_is_better": higher}
    return {"latency": [{"median_ms": ms}], "size_bytes": size, "metric": metric}


@pytest.mark.parametrize(
    "rows, best",
    [
        ([_row(1, 10), _row(2, 10), _row(3, 5)], [True, False, True]),
        ([_row(1, 10, 0.5), _row(2, 10, 0.9)], [True, True]),
        ([_row(1, 10, 0.5, False), _row(2, 10, 0.9, False)], [True, False]),
        ([_row(1, 10), _row(1, 10)], [True, True]),
        ([_row(1, None), _row(1, 10)], [False, True]),
    ],
)
def test_rows_that_nothing_beats_in_everything_are_marked(rows, best):
    _mark_best(rows)
    assert [row["best"] for row in rows] == best


@pytest.mark.integration
def test_a_model_in_two_runtimes_is_measured_at_two_batches():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    options = BenchOptions(runtime=["eager", "onnxruntime"], batch_size=3, rounds=1, cold_start="skip")
    rows = bench(["builtin:digits_cnn"], RecipeOptions(model="builtin:digits_cnn"), options)
    assert [row["runtime"] for row in rows] == ["eager", "onnxruntime"]
    assert [one["batch_size"] for row in rows for one in row["latency"]] == [1, 3, 1, 3]
    with pytest.raises(InputError, match="needs a model"):
        bench([], RecipeOptions(model="x"), options)


@pytest.mark.integration
def test_a_quantized_file_in_another_runtime_than_its_own_is_told(tmp_path):
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    quantized = compresskit.quantize("builtin:digits_cnn", scheme="int8-static", data="digits", latency_rounds=0)
    files = {name: str(tmp_path / f"{name}.onnx") for name in ("onnxruntime", "openvino")}
    for runtime, path in files.items():
        compresskit.export(quantized, format="onnx", runtime=runtime, output=path, rounds=0, cold_start="skip")
    told = []
    options = BenchOptions(runtime=["openvino"], batch_size=1, rounds=1, cold_start="skip")
    rows = bench([*files.values()], RecipeOptions(model="x"), options, told.append)
    assert "was written for onnxruntime" in rows[0]["note"] and "export --runtime openvino" in rows[0]["note"]
    assert rows[0]["note"] in told and "note" not in rows[1]


@pytest.mark.integration
def test_all_models_are_judged_before_anything_is_timed():
    told = []
    recipe = RecipeOptions(model="x", data="digits", eval_limit=8)
    rows = bench(["builtin:digits_cnn"], recipe, BenchOptions(rounds=1, cold_start="skip"), told.append)
    steps = [line.split()[0] for line in told]
    assert steps.index("judging") < steps.index("timing") and rows[0]["metric"]["name"] == "top1"
