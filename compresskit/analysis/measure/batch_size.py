"""How many examples a forward-only pass takes at once, from the memory that its activations take."""

from __future__ import annotations

import torch
from torch import nn

from ...core.tensors.devices import device_of
from ...core.types import Inputs
from .measure import peak_memory_bytes

LARGEST_BATCH = 256

# On a CPU the C library maps every block above 32 MiB anew and gives back what is free above twice the largest such
# block, so that each layer's output costs page faults. With 48 MiB in all, efficientnet_b0, mobilenet_v3_large and
# resnet18 at 224 pixels spend next to no time in the kernel, against a third to two thirds of it in batches of 64 to
# 256; below 20 MiB small products make them slower again. Measured by benchmarks/tasks/evaluation_time.py on an AMD
# EPYC with 2 cores, 2 MiB of L2, 32 MiB of L3, glibc 2.36, torch 2.14.1.
_CPU_BYTES = 48 * 2**20
_CUDA_SHARE = 0.25  # of the memory that is free


def evaluation_batch(module: nn.Module, inputs: Inputs) -> int:
    """Examples a batch in evaluation: as many as keep the activations of one forward within a budget, at most 256.

    Args:
        module: the model.
        inputs: one example, on the model's device.
    """
    device = device_of(module)
    if device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE)
    elif device.type == "cpu":
        budget = _CPU_BYTES
    else:
        return LARGEST_BATCH  # no memory is measured there
    return batch_within(budget, peak_memory_bytes(module, inputs))


def batch_within(budget_bytes: int, example_bytes: int | None) -> int:
    """The largest batch from 1 to 256 whose examples fit a budget; 256 where an example's bytes are not known."""
    if not example_bytes:
        return LARGEST_BATCH
    return max(1, min(LARGEST_BATCH, budget_bytes // example_bytes))
