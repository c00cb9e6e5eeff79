"""Fields that are made, not written: they behave as if they stood in the class."""

from __future__ import annotations

import inspect

import pytest
from pydantic import ValidationError

from compresskit.core.costs import Amount, guard_of
from compresskit.core.fields import amount_fields, amounts_of, with_fields
from compresskit.core.options import Options, option


class Plain(Options):
    """Doc."""

    width: int = option(3, "channels")


def test_fields_are_added_behind_those_of_the_class():
    fields = amount_fields(["bytes"], guard_of, "largest {noun}, e.g. {example}", kept=False, section="Guards")
    made = with_fields(Plain, fields)
    assert made.__name__ == "Plain" and made.__doc__ == "Doc." and issubclass(made, Plain)
    assert list(made.model_fields) == list(inspect.get_annotations(made)) == ["width", "max_bytes"]
    assert made.model_fields["max_bytes"].description == "largest bytes, e.g. 2MB"
    assert amounts_of(made(max_bytes="2MB"), guard_of) == {"bytes": Amount(2e6, False)} and not amounts_of(
        made(), guard_of
    )
    with pytest.raises(ValidationError, match="max_bytes must be above 0"):
        made(max_bytes=0)
