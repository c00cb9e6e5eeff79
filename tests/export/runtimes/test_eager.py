"""PyTorch as a runtime."""

from compresskit.export.runtimes.eager import eager


def test_eager_is_the_model_itself(linear_exported):
    exported = linear_exported(".onnx")
    exported.module.train()
    assert eager(exported) is exported.module
    assert not exported.module.training
