"""Options: what the schemes mean."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

import compresskit
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.tables import OBSERVER_CHOICES, ROUNDINGS, SCHEMES


def test_defaults():
    options = QuantizeOptions()
    assert (options.scheme, options.weight_bits(), options.weight_granularity()) == ("int8-weight", 8, "channel")
    assert not options.needs_data()
    assert QuantizeOptions(scheme="int8-static").needs_data()
    assert QuantizeOptions(scheme="int4-weight", bits=5).weight_bits() == 5


@pytest.mark.parametrize("table", [SCHEMES, OBSERVER_CHOICES, ROUNDINGS], ids=lambda table: table.kind)
def test_every_row_resolves(table):
    for name in table:
        assert table.load(name) is not None


def test_learned_steps_train_milder_unless_told_otherwise():
    given = QuantizeOptions(scheme="int4-weight", qat="kd").qat_options()
    assert (given.lr, given.grad_clip) == (1e-3, 1.0)
    given = QuantizeOptions(scheme="int4-weight", qat="kd", lr=0.02, grad_clip=None).qat_options()
    assert (given.lr, given.grad_clip) == (0.02, None)
    # a dry run trains nothing
    assert not QuantizeOptions(scheme="int4-weight", qat="kd", recover="kd").without_training().trains()


@pytest.mark.integration
def test_options_of_named_schemes_are_checked_without_torch():
    code = (
        "import sys; from compresskit.quantization.options import QuantizeOptions; "
        "from compresskit.quantization.tables "
        "import SCHEMES; named = [name for name, row in SCHEMES.items() if row.target.startswith('tables:')]; "
        "assert len(named) == 10; [QuantizeOptions(scheme=name).data_readers() for name in named]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_causal_models_get_ranges_of_tokens_and_all_codes_unless_told_otherwise():
    found = QuantizeOptions(scheme="int8-dynamic").for_causal_models()
    assert (found.dynamic_ranges, found.uses_half_range()) == ("token", False)
    told = QuantizeOptions(scheme="int8-dynamic", dynamic_ranges="tensor", code_range="half").for_causal_models()
    assert (told.dynamic_ranges, told.uses_half_range()) == ("tensor", True)
    assert QuantizeOptions(scheme="int8-static").for_causal_models().uses_half_range()
    with pytest.raises(ValidationError, match="dynamic_ranges would be ignored"):
        QuantizeOptions(scheme="int8-static", dynamic_ranges="token")


def test_learned_steps_may_do_without_labels_where_the_float_model_teaches():
    asked = {"scheme": "int8-static", "epochs": 1, "labels": "ignore"}
    assert QuantizeOptions(qat="kd", **asked).recover.labels == "ignore"
    for qat in ("finetune", "none"):
        with pytest.raises(ValueError, match="labels ignore would be ignored: recover is 'none'; set recover to kd"):
            QuantizeOptions(qat=qat, **asked)


def test_data_means_gptq_below_8_bits_unless_something_else_mends_the_weights():
    def rounding(tuned=False, **options):
        return QuantizeOptions(**options).with_data(tuned=tuned).rounding

    assert rounding(scheme="int4-weight") == rounding(scheme="int8-weight", bits_for={"fc": 3}) == "gptq"
    assert rounding(scheme="int4-weight", tuned=True) == "nearest"
    assert rounding(scheme="int4-weight", rounding="nearest") == "nearest"
    assert [rounding(scheme=scheme) for scheme in ("int8-weight", "w4a4", "nf4")] == ["nearest"] * 3
    assert rounding(scheme="int4-weight", qat="kd") == "gptq"  # training starts from these codes


@pytest.mark.integration
def test_the_plain_command_with_data_is_gptq_by_name(digits_model):
    found = []
    for options in ({}, {"rounding": "gptq"}):
        shared = {"scheme": "int4-weight", "data": "digits", "latency_rounds": 0}
        step = compresskit.quantize(str(digits_model), **shared, **options).report["steps"][0]
        found.append((step["facts"]["rounding"], step["measurement"]["metric"]))
    assert found[0] == found[1] and found[0][0] == "gptq"
