"""Fully sharded training (FSDP): each process holds a part of every weight and of the optimizer's state."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ...core import distributed
from ...core.errors import InputError
from ...core.tensors.copying import copy_module
from ..checkpoints import checkpoint
from . import shard_files


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

    def parts(self) -> dict[str, Tensor]:
        """All weights, sharded as they are, and buffers."""
        return cast(dict[str, Tensor], get_model_state_dict(self.module))

    def weights(self) -> dict[str, Tensor]:
        """All weights and buffers, whole, on the CPU, in every process."""
        found = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=False))
        return {name: value.detach().cpu().clone() for name, value in found.items() if isinstance(value, Tensor)}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Undo `weights` or `parts`."""
        whole = not any(isinstance(value, DTensor) for value in weights.values())
        set_model_state_dict(self.module, dict(weights), options=StateDictOptions(full_state_dict=whole))

    def write(self, path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, sharded tensors into a folder of its step beside it; every process must call it.

        The record is written last and earlier folders go after it: a kill at any moment leaves one that can be read.
        """
        parts = {name: value for name, value in tensors.items() if isinstance(value, DTensor)}
        folder = path.with_suffix(f".step{state['state']['step']}")
        record = {"parts": shard_files.write(folder, parts)} if parts else {}
        if distributed.is_main():
            checkpoint.write(path, {name: tensors[name] for name in tensors.keys() - parts}, {**state, **record})
            for other in path.parent.glob(f"{path.stem}.step*"):
                if not parts or other != folder:
                    shutil.rmtree(other)

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Undo `write`, in any number of processes; every tensor is whole in what an older version wrote.

        Raises:
            InputError: if a file is damaged or missing.
        """
        tensors, state = checkpoint.read(path)
        if "parts" in state:
            tensors |= shard_files.read(path.parent, state["parts"], self._example())
        return tensors, state

    def _example(self) -> DTensor:
        return next(one for one in self.module.parameters() if isinstance(one, DTensor))

    @staticmethod
    def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
        """Undo `checkpoint.optimizer_tensors`: of whole tensors, each process takes its part."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parts = {}
        for key, value in tensors.items():
            parameter = parameters[int(key.partition("/")[0])]
            is_whole = not isinstance(value, DTensor) and value.shape == parameter.shape
            if is_whole and isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parts[key] = value
        checkpoint.restore_optimizer(optimizer, parts)
