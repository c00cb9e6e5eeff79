"""Calling what a user names."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.core.user_code.user_imports import call_factory


def make(classes, *, width=1):
    return classes, width


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "missing a required argument: 'classes'; give it, e.g. --model-arg classes=VALUE"),
        ({"width": 2}, "--model-arg classes=VALUE"),
        ({"classes": 1, "widht": 2}, "unexpected keyword argument 'widht'; did you mean 'width'?"),
    ],
)
def test_arguments_that_do_not_fit_are_named_with_what_does(args, said):
    with pytest.raises(InputError) as error:
        call_factory(make, args, "net.py:make")
    assert said in str(error.value)


def test_a_factory_is_called():
    assert call_factory(make, {"classes": 3}, "net.py:make") == (3, 1)
