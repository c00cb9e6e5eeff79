import pytest

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.export import layer_timing
from compresskit.training.context import Context


@pytest.fixture(scope="module")
def opened(digits_model):
    """The digits model, and the context in which it is searched: (loaded, context)."""
    loaded = load_model(str(digits_model))
    return loaded, Context(loaded, open_data("digits", loaded.preprocessing), make_metric("top1"), runtime=layer_timing)
