"""Every row of every registry can be loaded, takes what its registry says, and has a line of help."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import compresskit
from compresskit.core.registry import Registry
from compresskit.search.tables import ARCHITECTURES

ROOT = Path(compresskit.__file__).parent
FILES = sorted(path.relative_to(ROOT.parent).with_suffix("") for path in ROOT.rglob("tables.py"))
REGISTRIES = {
    f"{file.parent.relative_to('compresskit').as_posix()}: {name}": value
    for file in FILES
    for name, value in vars(importlib.import_module(".".join(file.parts))).items()
    if isinstance(value, Registry)
}
#: names that stand for a whole way of working, which the registry's users look at before they load a row
MODES = {
    "pruning: REGULARIZERS": {"none"},
    "quantization: OBSERVER_CHOICES": {"auto"},
    "search: POLICIES": ARCHITECTURES,
}


def test_every_room_with_a_table_has_a_registry():
    assert {name.partition(":")[0] for name in REGISTRIES} == {
        file.parent.relative_to("compresskit").as_posix() for file in FILES
    }


@pytest.mark.parametrize("where", REGISTRIES)
def test_rows_load_and_take_what_the_registry_says(where):
    registry = REGISTRIES[where]
    for name, row in registry.items():
        assert len(row.help) > 5, name
        found = registry.load(name)
        if registry.takes is not None and name not in MODES.get(where, ()):
            registry._verify(found, name)  # classes and variants by their own arguments
        assert found is not None
