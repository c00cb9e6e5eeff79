"""What is open while a model is traced: modes that see its operations and calls, hooks that know where it stands."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ...analysis.measure.macs import operation_macs
from ...core.tensors.dispatch import OperationMode, unfused
from .channel_ids import varying
from .symbolic_int import size_numbers

Trace = Any


class Dispatch(OperationMode):
    """Sees every operation that reaches a kernel, and moves id planes through it."""

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from .op_rules.table import apply

        with torch._C.DisableTorchFunction():  # operations of scripted functions come here with the other mode on
            noted = len(self.trace.costs)
            output = apply(self.trace, func, args, kwargs or {})
            if len(self.trace.costs) == noted:  # no rule says which widths its cost follows, so it stays as it is
                macs = operation_macs(func, args, kwargs or {}, output)
                if macs:
                    self.trace.cost(macs, [])
            if len(self.trace.costs) > noted:
                self.trace.contracted(output)
            return output


class Functions(TorchFunctionMode):
    """Sees the calls that Python makes, with the numbers that fix shapes."""

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func, types, args=(), kwargs=None):
        from .python_calls import CALLS, WHOLE

        kwargs = kwargs or {}
        if func == _SHAPE or func is torch.Tensor.size:
            return self._size(func, args, kwargs)
        if func is torch.Tensor.numel or func is torch.Tensor.__len__:
            return self._count(func, args[0])
        name = getattr(func, "__name__", "")
        if name in WHOLE:
            return WHOLE[name](self.trace, func, args, kwargs)
        handler = CALLS.get(name)
        if handler is None:
            return func(*args, **kwargs)
        if name == "pad":
            self.trace.pads = list(args[1] if len(args) > 1 else kwargs.get("pad", ()))
        output = func(*args, **kwargs)
        self.trace.pads = None
        handler(self.trace, name, args, kwargs, output)
        return output

    def _size(self, func: Any, args: tuple, kwargs: dict) -> Any:
        shape = func(*args, **kwargs)
        tensor = args[0]
        planes = self.trace.planes(tensor)
        if not planes:
            return shape
        if isinstance(shape, int):
            dim = (args[1] if len(args) > 1 else kwargs["dim"]) % tensor.dim()
            axis = self.trace.axis(tensor, dim)
            return size_numbers(torch.Size([shape]), {0: axis} if axis.planes else {})[0]
        axes = {d: self.trace.axis(tensor, d) for p in planes for d in varying(p)}
        return size_numbers(shape, axes)

    def _count(self, func: Any, tensor: Tensor) -> int:
        """numel and len: a product of sizes."""
        if not self.trace.planes(tensor):
            return func(tensor)
        result = 1
        for size in self._size(_SHAPE, (tensor,), {})[: 1 if func is torch.Tensor.__len__ else None]:
            result = size * result
        return result


_SHAPE = vars(torch._C.TensorBase)["shape"].__get__  # what a function mode is given as the function of `x.shape`


@contextmanager
def plain_kernels(module: nn.Module) -> Iterator[None]:
    """Keep fused inference kernels, which hide their operations, out of the run."""
    recurrent = any(isinstance(child, nn.RNNBase) for child in module.modules())
    # None: the setting of TF32 stays, which torch's annotation lacks; setting it warns where there is no Intel GPU
    same: Any = None
    with unfused(), torch.backends.mkldnn.flags(enabled=False, allow_tf32=same) if recurrent else nullcontext():
        yield


@contextmanager
def unchanged_attributes(module: nn.Module) -> Iterator[None]:
    """Afterwards, whatever forward changed in its modules' attributes is what it was: a state kept between calls, a
    cache in a mapping, list or set, hooks and the mark that they are there; parameters and children stay."""
    before = [
        (child, dict(vars(child)), _contents(child))
        for child in module.modules()
        if not isinstance(child, torch.jit.ScriptModule)
    ]
    try:
        yield
    finally:
        for child, attributes, contents in before:
            vars(child).clear()
            vars(child).update(attributes)
            for container, items in contents:
                container.clear()
                container.extend(items) if isinstance(container, list) else container.update(items)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    """(mapping, list or set among a module's attributes, a copy of it)."""
    values = [value for name, value in vars(module).items() if name not in ("_parameters", "_modules")]
    return [(value, copy.copy(value)) for value in values if type(value) in (dict, OrderedDict, list, set)]


@contextmanager
def positions(trace: Trace, module: nn.Module) -> Iterator[None]:
    """Keep trace.path at the module that is running."""
    paths = {id(child): path for path, child in module.named_modules()}

    def enter(child: nn.Module, _inputs: Any) -> None:
        trace.path.append(paths.get(id(child), trace.path[-1]))

    def leave(_child: nn.Module, _inputs: Any, _output: Any) -> None:
        trace.path.pop()

    handles = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def scripted_children(module: nn.Module) -> dict[str, nn.Module]:
    """Outermost modules whose code TorchScript holds, by path."""
    found: dict[str, nn.Module] = {}
    for path, child in module.named_modules():
        inside = any(name == "" or path.startswith(f"{name}.") for name in found)
        if isinstance(child, torch.jit.ScriptModule) and not inside:
            found[path] = child
    return found


@contextmanager
def scripted(trace: Trace, module: nn.Module) -> Iterator[None]:
    """What enters a scripted module stays: the sizes that its code reads are not seen."""
    paths = {id(child): path for path, child in scripted_children(module).items()}

    def enter(child: nn.Module, args: Any) -> None:
        if id(child) not in paths:
            return
        reason = f"{paths[id(child)] or 'the model'} is scripted, so its code cannot follow"
        for tensor in pytree.tree_leaves(args):
            if isinstance(tensor, Tensor) and id(tensor) not in trace.stored:
                for plane in trace.planes(tensor):
                    trace.ids.pin(plane, reason)

    handle = nn.modules.module.register_module_forward_pre_hook(enter)
    try:
        yield
    finally:
        handle.remove()


#: folders whose frames are not the user's code
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))

_RUN = str(Path(__file__).parent / "tracer.py")


def user_line() -> str:
    """The innermost line outside of torch that is running, as "file.py:12"; empty where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name == _RUN and frame.f_code.co_name == "run":
            return ""  # everything that runs is torch's own
        if not name.startswith(_LIBRARIES) and not name.startswith("<"):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
