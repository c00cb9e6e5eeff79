"""Options of bench and predict."""

import pytest
from pydantic import ValidationError

from compresskit.pipeline.inspection.bench_options import BenchOptions, PredictOptions


def test_defaults_and_limits():
    assert BenchOptions().runtime == [] and BenchOptions().batch_size == 1 and PredictOptions().top == 5
    for model, given in (
        (BenchOptions, {"runtime": ["nothing"]}),
        (BenchOptions, {"rounds": 0}),
        (PredictOptions, {"top": 0}),
    ):
        with pytest.raises(ValidationError):
            model(**given)
