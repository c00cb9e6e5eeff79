"""torch.compile as a runtime."""

import pytest
import torch

from compresskit.export.runtimes.inductor import inductor


@pytest.mark.slow
def test_inductor_computes_what_the_model_does(linear_exported):
    pytest.importorskip("torchao")
    exported = linear_exported(".pt2")
    runner = inductor(exported)
    torch.testing.assert_close(runner(exported.example), exported.module(exported.example).detach())
    for count in (1, 5):  # lowering fixes the example's batch size
        several = torch.randn(count, *exported.example.shape[1:])
        torch.testing.assert_close(runner(several), exported.module(several).detach())
