"""PyTorch on the GPU as a runtime; refused where there is none."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.tables import RUNTIMES

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", ["cuda", "inductor-cuda"])
def test_it_computes_what_the_model_does_or_says_that_there_is_no_gpu(linear_exported, name):
    exported = linear_exported(".pt2")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="needs an NVIDIA GPU"):
            RUNTIMES.load(name)(exported)
        return
    found = RUNTIMES.load(name)(exported)(exported.example)
    torch.testing.assert_close(found, exported.module(exported.example).detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_that_is_not_there_is_refused(linear_exported, name):
    runtime = pytest.importorskip("onnxruntime")
    if RUNTIMES.attribute(name, "provider", "") in runtime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(InputError, match="this onnxruntime has no"):
        RUNTIMES.load(name)(linear_exported(".onnx"))
