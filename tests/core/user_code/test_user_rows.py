"""A user's function in a registry: blamed by name for what it raises or returns, and otherwise itself."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.core.user_code.user_rows import UserRow, check_call


def half(width, height):
    return width / height


half.needs = "data"


def row(function, wrong=lambda found, *given: ""):
    return UserRow(function, "size 'mine.py:half'", wrong)


def test_it_computes_and_has_the_attributes_of_the_function():
    mine = row(half)
    assert (mine(6, 3), mine.needs) == (2.0, "data")


def test_what_it_raises_is_named():
    with pytest.raises(InputError, match=r"size 'mine.py:half' failed: .*division by zero"):
        row(half)(1, 0)


def test_what_it_returns_wrongly_is_named():
    with pytest.raises(InputError, match=r"size 'mine.py:half': must be whole, got 0.5 of 1"):
        row(half, lambda found, width, height: "" if found == int(found) else f"must be whole, got {found} of {width}")(
            1, 2
        )


def test_our_own_errors_pass_as_they_are():
    def refuses(width, height):
        raise InputError("give another size")

    with pytest.raises(InputError, match=r"^give another size$"):
        row(refuses)(1, 2)


@pytest.mark.parametrize("function", [half, lambda width, height, depth=1: 0, lambda *sizes: 0, max])
def test_functions_that_take_the_arguments_pass(function):
    assert check_call(function, ("width", "height"), "it must take (width, height)") is None


def test_one_that_does_not_is_refused_with_its_signature():
    with pytest.raises(InputError, match=r"it must take \(width\), and its signature \(width, height\) does not"):
        check_call(half, ("width",), "it must take (width)")
