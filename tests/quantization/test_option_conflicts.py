"""An option without effect, or against another, is refused; rows say of formats what the formats are."""

import pytest
from pydantic import ValidationError

from compresskit.quantization.option_conflicts import format_fact
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.tables import FORMATS


@pytest.mark.parametrize(
    "given, match",
    [
        ({"scheme": "int8"}, "did you mean 'int8-"),
        ({"observer": "mse"}, "observer would be ignored"),
        ({"scheme": "int8-static", "percentile": 99.0}, "choose percentile"),
        ({"group_size": 32}, "set granularity to group"),
        ({"scheme": "float8-weight", "bits": 4}, "no meaning for scheme 'float8-weight'"),
        ({"bits": 1}, "bits must be 2 to 8"),
        ({"bits_for": {"conv1": 12}}, "bits must be 2 to 8"),
        ({"calibration_samples": 10}, "calibration_samples would be ignored"),
        ({"calibration_batch": 10}, "calibration_batch would be ignored"),
        ({"scheme": "float8-weight", "weight_search": "mse"}, "no meaning for scheme 'float8-weight'"),
        ({"scheme": "codebook", "qat": "kd"}, "qat learns integer steps"),
    ],
)
def test_options_that_would_do_nothing_are_refused(given, match):
    with pytest.raises(ValidationError, match=match):
        QuantizeOptions(**given)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_row_says_of_a_format_is_what_the_format_is(name):
    for fact in ("options", "bits_range"):
        assert format_fact(name, fact) == getattr(FORMATS.load(name), fact)
