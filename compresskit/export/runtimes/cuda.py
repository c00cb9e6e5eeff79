"""PyTorch on the GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.tensors.copying import copy_module
from ...core.types import Inputs, call, main_output, to_device
from .exported import Exported, Runner


def cuda(exported: Exported) -> Runner:
    """The quantized model in PyTorch on the GPU; inputs are copied there, outputs back.

    Raises:
        InputError: if there is no GPU.
    """
    return _on_gpu(_module(exported))


def inductor_cuda(exported: Exported) -> Runner:
    """The same through torch.compile.

    Raises:
        InputError: if there is no GPU.
    """
    module = _module(exported)
    module.compile()
    return _on_gpu(module)


def _module(exported: Exported) -> nn.Module:
    if not torch.cuda.is_available():
        raise InputError("runtime cuda needs an NVIDIA GPU, and torch finds none here; choose a runtime of the CPU")
    if exported.module is not None:
        module = copy_module(exported.module).to("cuda")
        return module.eval()
    if exported.program is None:
        raise InputError(f"{exported.path.name!r} does not run in PyTorch; choose another runtime")
    module = exported.program.module()
    return module.to("cuda")


def _on_gpu(module: nn.Module) -> Runner:
    device = torch.device("cuda")

    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            output = main_output(call(module, to_device(inputs, device)))
        return output.cpu()  # which waits for it

    return Runner(run)
