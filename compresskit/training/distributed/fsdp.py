"""Fully sharded training (FSDP): each process holds a part of every weight and of the optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from ...core.errors import InputError
from ...core.tensors.copying import copy_module
from ..checkpoints import checkpoint
from ..optim import gathered


class Sharded:
    """A sharded copy of a module, `module`; the module it was made from stays whole.

    Args:
        module: any module; the process group must be there.
        device: where it is trained.
    Raises:
        InputError: without several processes.
    """

    def __init__(self, module: nn.Module, device: torch.device):
        if not dist.is_initialized():
            raise InputError(
                "sharding fsdp needs several processes; start with torchrun --nproc-per-node 2 -m compresskit"
            )
        self.module = copy_module(module)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for child in self.module.children():
            # one unit a top-level child: its weights are gathered only while it runs
            if any(True for _ in child.parameters()):
                fully_shard(child, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def weights(self) -> dict[str, Tensor]:
        """All weights and buffers, whole, on the CPU, in every process."""
        found = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=False))
        return {name: value.detach().cpu().clone() for name, value in found.items() if isinstance(value, Tensor)}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Undo `weights`."""
        set_model_state_dict(self.module, dict(weights), options=StateDictOptions(full_state_dict=True))


def whole_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `index/name` -> tensor, sharded ones gathered; every process must call it."""
    return {name: gathered(value) for name, value in checkpoint.optimizer_tensors(optimizer).items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `whole_tensors`: each process takes its part again."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parts = {}
    for key, value in tensors.items():
        parameter = parameters[int(key.partition("/")[0])]
        is_like_it = hasattr(parameter, "placements") and value.shape == parameter.shape
        parts[key] = distribute_tensor(value, parameter.device_mesh, parameter.placements) if is_like_it else value
    checkpoint.restore_optimizer(optimizer, parts)
