import pytest

from compresskit.core.data import open_data
from compresskit.core.metrics import make_metric
from compresskit.core.source import load_model
from compresskit.core.types import Context


@pytest.fixture(scope="module")
def opened(digits_model):
    """The digits model, and the context in which it is searched: (loaded, context)."""
    loaded = load_model(str(digits_model))
    return loaded, Context(loaded, open_data("digits", loaded.preprocessing), make_metric("top1"))
