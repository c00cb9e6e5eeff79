"""Several processes under torchrun: who am I, the process group, and batch norms that see the whole batch."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


@contextmanager
def session(device: torch.device) -> Iterator[None]:
    """Join the process group, which then stays until the process ends; nothing happens without torchrun.

    It is not left between steps: a second group would find the first one's addresses in torchrun's store.
    """
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    with warnings.catch_warnings():
        # one-channel convolutions have two strides for the same layout; torch calls it a matter of speed
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        yield


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def from_main(value: Any) -> Any:
    """The main process's value, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def mean(value: float) -> float:
    """The mean of a number over all processes."""
    if not dist.is_initialized():
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def average_gradients(modules: Iterable[nn.Module]) -> None:
    """Replace gradients by their mean over all processes, for modules that no wrapper looks after."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def share(batch: Any) -> Any:
    """This process's contiguous part of a batch, as `core.tensors.batches` has it."""
    if world_size() == 1:
        return batch
    if isinstance(batch, Tensor):
        return batch.tensor_split(world_size())[rank()]
    if isinstance(batch, dict):
        return {key: share(value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(share(value) for value in batch)
    if isinstance(batch, list):  # an entry an example
        return [batch[index] for index in torch.arange(len(batch)).tensor_split(world_size())[rank()].tolist()]
    return batch


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is summed over processes too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        total: Tensor = grad_outputs[0].clone().contiguous()
        dist.all_reduce(total)
        return total


@contextmanager
def synchronized_batch_norms(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, training batch norms take their statistics over the batches of all processes.

    torch's SyncBatchNorm needs an accelerator; this one runs on any device and leaves the modules' types alone.
    """
    norms = [
        layer for module in modules for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    if not dist.is_initialized():
        norms = []
    for norm in norms:
        vars(norm)["forward"] = _SynchronizedForward(norm)  # its own, in front of its class's method
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _SynchronizedForward:
    def __init__(self, norm: nn.modules.batchnorm._BatchNorm):
        self._norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        norm = self._norm
        if not norm.training:
            plain: Tensor = type(norm).forward(norm, x)
            return plain
        dims = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.numel() / x.shape[1] * dist.get_world_size()
        average = _Sum.apply(x.float().sum(dims)) / count
        centred = x.float() - average.reshape(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        if norm.track_running_stats:
            _update(norm, average.detach(), variance.detach() * count / max(count - 1, 1))
        y: Tensor = centred * (variance + norm.eps).rsqrt().reshape(shape)
        if norm.affine:
            y = y * norm.weight.reshape(shape) + norm.bias.reshape(shape)
        return y.to(x.dtype)


def _update(norm: nn.modules.batchnorm._BatchNorm, average: Tensor, unbiased_variance: Tensor) -> None:
    count, mean, variance = norm.num_batches_tracked, norm.running_mean, norm.running_var
    if count is None or mean is None or variance is None:  # a norm that tracks has all three
        return
    count += 1
    momentum = 1 / float(count) if norm.momentum is None else norm.momentum
    mean.lerp_(average.to(mean.dtype), momentum)
    variance.lerp_(unbiased_variance.to(variance.dtype), momentum)
