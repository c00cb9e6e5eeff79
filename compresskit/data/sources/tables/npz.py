"""Arrays of a NumPy archive."""

from __future__ import annotations

from ....core.errors import InputError, nearest
from ....core.types import Preprocessing
from ...arrays import names_in_npz, read_npz
from ...splits.arrays import array_split
from ...splits.base import Splits, classes_of, divided

_NAMES = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test")
_SHOWN_NAMES = 20


def npz(location: str, preprocessing: Preprocessing) -> Splits:
    """Arrays x_train, y_train, x_test, y_test (and x_val, y_val), or x and y, of a NumPy archive."""
    arrays = read_npz(location, _NAMES)
    if "x" in arrays and "y" in arrays:
        split = array_split(arrays["x"], arrays["y"], location)
        return divided(split, classes_of(split.targets))
    wanted = [f"{axis}_{split}" for split in ("train", "test") for axis in "xy"]
    for name in wanted:
        if name not in arrays:
            held = names_in_npz(location)
            raise InputError(f"data file {location!r} lacks array {name!r}{nearest(name, held[:_SHOWN_NAMES])}")
    train, test = (array_split(arrays[f"x_{s}"], arrays[f"y_{s}"], location) for s in ("train", "test"))
    val = array_split(arrays["x_val"], arrays["y_val"], location) if "x_val" in arrays and "y_val" in arrays else None
    return Splits(train, test, val, classes_of(train.targets))
