"""Shares are written as 0.5 or 50%, in every option that is one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compresskit.core.options import Options, option
from compresskit.core.shares import Share, is_share, read_share
from compresskit.pipeline.techniques import TECHNIQUES


class Sample(Options):
    share: Share | None = option(None, "a share", gt=0, lt=1)
    shares: list[Share] = option([], "several")
    named: dict[str, Share] = option({}, "by name")
    number: float = option(1.0, "no share")


@pytest.mark.parametrize(
    ("given", "value"), [(0.5, 0.5), ("50%", 0.5), (" 12.5 % ", 0.125), ("0.5", 0.5), ("1e-1", 0.1)]
)
def test_both_ways_mean_the_same(given, value):
    made = Sample(share=given, shares=[given], named={"a": given})
    assert made == Sample(share=value, shares=[value], named={"a": value})
    assert made.share == value


@pytest.mark.parametrize("given", [50, "50", 50.0])
def test_a_forgotten_percent_sign_is_named(given):
    for values in ({"share": given}, {"shares": [given]}, {"named": {"a": given}}):
        with pytest.raises(ValidationError, match=r"did you mean 0.5 or 50%\?"):
            Sample(**values)


def test_limits_hold_for_percentages_too():
    with pytest.raises(ValidationError, match="less than 1"):
        Sample(share="100%")
    with pytest.raises(ValidationError, match="valid number"):
        Sample(share="half")
    assert Sample(number=50).number == 50
    assert read_share(None) is None and read_share(True) is True


def test_fields_that_hold_shares_are_known():
    found = {name for name, field in Sample.model_fields.items() if is_share(field.annotation, field.metadata)}
    assert found == {"share", "shares", "named"}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_number_between_nothing_and_the_whole_takes_percent(technique):
    model = TECHNIQUES[technique].options_model()
    of_their_own = {"momentum", "ema"}  # decays, which nobody writes in percent
    for name, field in model.model_fields.items():
        limits = {type(item).__name__: getattr(item, type(item).__name__.lower(), None) for item in field.metadata}
        if field.annotation in (float, float | None) and (limits.get("Lt") == 1 or limits.get("Le") == 1):
            assert is_share(field.annotation, field.metadata) or name in of_their_own, name
