"""What one training step runs: model, adapters and loss as one module, wrapped where several processes share it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ...core import distributed
from ...core.types import Inputs

#: (module, inputs, targets) -> the loss of one batch, a scalar. An objective may also have `begin_step(indices, step,
#: total_steps)`, called before each batch with the data set's indices of its examples; `parts`, a mapping of the last
#: batch's loss terms for the log; `leaves_layers_out`, whether some weights get no gradient; `memory()` and
#: `recall(tensors)`, tensors of its own that a resumed run needs.
Objective = Callable[[nn.Module, Inputs, Any], Tensor]


class Joined(nn.Module):
    """Model and adapters as one module whose forward is the loss, so that DDP sees every gradient."""

    def __init__(self, module: nn.Module, extras: Sequence[nn.Module], objective: Objective):
        super().__init__()
        self.module = module
        self.extras = nn.ModuleList(extras)
        self._objective = (objective,)  # in a tuple, so that a teacher inside it is not registered

    def forward(self, inputs: Inputs, targets: Any) -> Tensor:
        return self._objective[0](self.module, inputs, targets)


def shared(joined: Joined, leaves_out: bool, batch_norm: str) -> nn.Module:
    """The module as the processes of a run share it; as it is where there is only one.

    Args:
        leaves_out: whether the loss gives some weights no gradient.
        batch_norm: "local" statistics are sent from the first process to the others.
    """
    if distributed.world_size() == 1:
        return joined
    wrapper = nn.parallel.DistributedDataParallel
    # torch renamed the argument; both keep buffers apart where batch norms see every process's batch
    known = inspect.signature(wrapper.__init__).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {"find_unused_parameters": leaves_out, sync: batch_norm == "local"}
    return wrapper(joined, **options)
