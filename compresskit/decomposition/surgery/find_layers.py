"""Which layers of a model can be replaced, what each costs, and what follows it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...analysis.calibration.hooks import watch
from ...core.tensors.dtypes import FLOATS, fit_inputs
from ...core.tensors.modules import get_module, set_module
from ...core.types import Loaded, invoke
from ..methods.geometry import Call, Geometry, chain_macs, chain_params, geometry_of


@dataclass
class Site:
    """A layer that may be replaced.

    Attributes:
        calls: its calls during one forward pass of the example.
        norm: name of the batch normalization that alone reads its output, if there is one.
        relu: whether a ReLU follows it (behind the normalization, if any) and nothing else reads its output.
    """

    name: str
    geometry: Geometry
    calls: list[Call] = field(default_factory=list)
    norm: str | None = None
    relu: bool = False

    def macs_of(self, chain: list[Geometry]) -> int:
        """MACs that a chain in this place costs per forward pass of the example."""
        return sum(chain_macs(chain, one) for one in self.calls)

    @property
    def macs(self) -> int:
        return self.macs_of([self.geometry])

    @property
    def params(self) -> int:
        return self.geometry.params

    def saves(self, chain: list[Geometry]) -> bool:
        """Whether a chain has fewer parameters and fewer MACs; an embedding costs no MACs, so only parameters count."""
        fewer_macs = self.geometry.form == "embedding" or self.macs_of(chain) < self.macs
        return fewer_macs and chain_params(chain) < self.params


class _Watched(nn.Module):
    """Stands for a layer during the survey: notes its calls, and which of its attributes the model reads."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.inputs: list[tuple[int, ...]] = []
        self.outputs: list[Tensor] = []
        self.touched: str | None = None
        self.more_arguments = False  # e.g. the output size that a transposed convolution takes

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            self.touched = name
            return getattr(self.layer, name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        output = self.layer(*inputs, **named)
        only, *more = (*inputs, *named.values())
        self.more_arguments |= bool(more)
        self.inputs.append(tuple(only.shape))
        self.outputs.append(output)
        return output


@torch.no_grad()
def survey(loaded: Loaded) -> tuple[list[Site], dict[str, str]]:
    """The layers that can be replaced, in calling order, and the plain layers that cannot, with the reason.

    A layer whose weight the model reads by itself (fused attention, a tied head) must stay as it is, which shows in
    one forward pass with a stand-in that notes what is read.
    """
    root = loaded.module
    plain = {name: geometry_of(layer) for name, layer in root.named_modules()}
    plain = {name: geometry for name, geometry in plain.items() if geometry and geometry.form != "folded"}
    left_out = _unreplaceable(root, plain)
    names = [name for name in plain if name not in left_out]
    example = fit_inputs(root, loaded.example)  # stand-ins hide in what type the model computes
    stand_ins = {name: _Watched(get_module(root, name)) for name in names}
    order: list[str] = []
    for name, stand_in in stand_ins.items():
        set_module(root, name, stand_in)
    readers = _Readers()
    try:
        with readers, watch(root, {name: lambda _, __, ___, name=name: order.append(name) for name in names}):
            invoke(root, example)
    finally:
        for name, stand_in in stand_ins.items():
            set_module(root, name, stand_in.layer)
    sites = []
    for name in dict.fromkeys([*order, *names]):
        stand_in = stand_ins[name]
        if stand_in.touched:
            left_out[name] = f"the model reads its {stand_in.touched} directly"
        elif stand_in.more_arguments:
            left_out[name] = "the model calls it with more than its input"
        elif not stand_in.inputs:
            left_out[name] = "the example input does not reach it"
        elif (reason := _unfit_weights(root.get_submodule(name))) is not None:
            left_out[name] = reason
        else:
            sites.append(_site(name, plain[name], stand_in, readers, root))
    return sites, left_out


def _unreplaceable(root: nn.Module, plain: dict[str, Geometry]) -> dict[str, str]:
    uses = Counter(id(tensor) for _, module in root.named_modules() for tensor in module._parameters.values())
    paths = Counter(id(module) for _, module in root.named_modules(remove_duplicate=False))
    reasons = {}
    for name in plain:
        layer = get_module(root, name)
        if not name:
            reasons[name] = "it is the whole model"
        elif paths[id(layer)] > 1:
            reasons[name] = "the model holds it in several places"
        elif uses[id(layer.weight)] > 1:
            reasons[name] = "its weight is tied to another layer's"
        elif layer._forward_hooks or layer._forward_pre_hooks:
            reasons[name] = "it has hooks"
        elif isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.sparse):
            reasons[name] = "its rows are renormalized or sparse"
    return reasons


def _unfit_weights(layer: nn.Module) -> str | None:
    """Why a layer's weights have no factors here, or None."""
    weights = [parameter for parameter in layer.parameters(recurse=False) if parameter.dim() > 1]
    if not all(weight.numel() for weight in weights):
        return "it has no inputs or no outputs"
    if any(weight.dtype not in FLOATS for weight in weights):
        return f"its weights are {str(weights[0].dtype).removeprefix('torch.')}"
    return None


def _site(name: str, geometry: Geometry, stand_in: _Watched, readers: _Readers, root: nn.Module) -> Site:
    axes = len(geometry.kernel)
    calls = []
    for shape in stand_in.inputs:
        count = torch.Size(shape).numel()
        if geometry.kernel:
            size = shape[len(shape) - axes :]
            calls.append(Call(count // (geometry.in_channels * torch.Size(size).numel()), size))
        else:
            calls.append(Call(count if geometry.form == "embedding" else count // geometry.in_channels))
    norm, relu = None, False
    if len(stand_in.outputs) == 1:
        norm, relu = _follower(stand_in.outputs[0], readers, root)
    return Site(name, geometry, calls, norm, relu)


class _Readers(TorchFunctionMode):
    """Notes which functions read which tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.by_tensor: dict[int, list[tuple[str, tuple, Tensor]]] = {}
        self.kept: list[Any] = []  # ids are only unique while the tensors live

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if isinstance(output, Tensor) and name != "__get__":
            self.kept.append((args, output))
            for item in _tensors(args):
                self.by_tensor.setdefault(id(item), []).append((name, args, output))
        return output


def _tensors(items: Any) -> list[Tensor]:
    if isinstance(items, Tensor):
        return [items]
    if isinstance(items, tuple | list):
        return [tensor for item in items for tensor in _tensors(item)]
    return []


_RELUS = ("relu", "relu_")


def _follower(output: Tensor, readers: _Readers, root: nn.Module) -> tuple[str | None, bool]:
    """(name of the following batch normalization, whether a ReLU comes next)."""
    reads = _outermost(readers.by_tensor.get(id(output), []))
    norm = None
    if len(reads) == 1 and reads[0][0] == "batch_norm":
        running_mean = reads[0][1][1] if len(reads[0][1]) > 1 else None
        norm = next(
            (name for name, module in root.named_modules()
             if running_mean is not None and getattr(module, "running_mean", None) is running_mean),
            None,
        )  # fmt: skip
        if norm is None:
            return None, False
        reads = _outermost(readers.by_tensor.get(id(reads[0][2]), []))
    # after an in-place ReLU the same tensor is read on, already rectified
    in_place = bool(reads) and reads[0][2] is _only_input(reads[0])
    return norm, bool(reads) and reads[0][0] in _RELUS and (len(reads) == 1 or in_place)


def _only_input(read: tuple[str, tuple, Tensor]) -> Tensor | None:
    tensors = _tensors(read[1])
    return tensors[0] if tensors else None


def _outermost(reads: list[tuple[str, tuple, Tensor]]) -> list[tuple[str, tuple, Tensor]]:
    """A composite function shows up together with the functions inside it, which return the same tensor."""
    by_output = {id(output): (name, args, output) for name, args, output in reads}
    return list(by_output.values())
