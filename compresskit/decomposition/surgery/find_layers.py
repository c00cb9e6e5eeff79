"""Which layers of a model can be replaced, what each costs, and what follows it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.dataflow import Call as TracedCall, Key, Trace, key_of, shape_of, trace
from ...analysis.measure.work import Work
from ...core.tensors.dispatch import unfused
from ...core.tensors.dtypes import FLOATS, fit_inputs
from ...core.tensors.modules import get_module, set_module
from ...core.types import Loaded, invoke
from ..methods.geometry import Call, Geometry, chain_macs, chain_outputs, chain_params, geometry_of


@dataclass
class Site:
    """A layer that may be replaced.

    Attributes:
        calls: its calls during one forward pass of the example.
        norm: name of the batch normalization that alone reads its output, if there is one.
        relu: whether a ReLU follows it (behind the normalization, if any) and nothing else reads its output.
        reads: what it read in each call; sites for which this is equal share their input.
    """

    name: str
    geometry: Geometry
    calls: list[Call] = field(default_factory=list)
    norm: str | None = None
    relu: bool = False
    reads: tuple[tuple[Key, ...], ...] = ()

    def macs_of(self, chain: list[Geometry]) -> int:
        """MACs that a chain in this place costs per forward pass of the example."""
        return sum(chain_macs(chain, one) for one in self.calls)

    def work_of(self, chain: list[Geometry], itemsize: float) -> Work:
        """What a chain in this place adds to a forward pass of the example.

        Args:
            chain: the layer itself, or what replaces it.
            itemsize: bytes of a weight and of an activation.
        """
        params = chain_params(chain)
        looked_up = sum(link.params for link in chain if link.form == "embedding")
        outputs = sum(chain_outputs(chain, one) for one in self.calls)
        macs = {round(8 * itemsize): float(self.macs_of(chain))}
        return Work(macs, params, params * itemsize, (params - looked_up) * itemsize, outputs * itemsize)

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
    """Stands for a layer during a run: notes whether it is called, and which of its attributes the model reads."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.called = False
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
        self.called = True
        self.more_arguments |= len(inputs) + len(named) > 1
        return self.layer(*inputs, **named)


def survey(loaded: Loaded) -> tuple[list[Site], dict[str, str]]:
    """The layers that can be replaced, in calling order, and the plain layers that cannot, with the reason.

    A layer whose weight the model reads by itself (fused attention, a tied head) must stay as it is, which shows in
    one forward pass with a stand-in that notes what is read.
    """
    root = loaded.module
    shapes = {name: geometry_of(layer) for name, layer in root.named_modules()}
    plain = {name: geometry for name, geometry in shapes.items() if geometry and geometry.form != "folded"}
    left_out = _unreplaceable(root, plain)
    names = [name for name in plain if name not in left_out]
    stand_ins = _run_with_stand_ins(loaded, names)
    record = trace(root, loaded.example)
    order = [name for name in record.calls if name in stand_ins]
    sites = []
    for name in dict.fromkeys([*order, *names]):
        stand_in = stand_ins[name]
        if stand_in.touched:
            left_out[name] = f"the model reads its {stand_in.touched} directly"
        elif stand_in.more_arguments:
            left_out[name] = "the model calls it with more than its input"
        elif not stand_in.called or name not in record.calls:
            left_out[name] = "the example input does not reach it"
        elif (reason := _unfit_weights(root.get_submodule(name))) is not None:
            left_out[name] = reason
        else:
            followed_by = _follower(name, record, root)
            calls = _calls(plain[name], record.calls[name])
            sites.append(Site(name, plain[name], calls, *followed_by, reads=record.inputs_of(name)))
    return sites, left_out


@torch.no_grad()
def _run_with_stand_ins(loaded: Loaded, names: list[str]) -> dict[str, _Watched]:
    """Run the example through a model once with stand-ins in the place of some layers; the model is then as it was."""
    root = loaded.module
    example = fit_inputs(root, loaded.example)  # stand-ins hide in what type the model computes
    stand_ins = {name: _Watched(get_module(root, name)) for name in names}
    for name, stand_in in stand_ins.items():
        set_module(root, name, stand_in)
    try:
        with unfused():
            invoke(root, example)
    finally:
        for name, stand_in in stand_ins.items():
            set_module(root, name, stand_in.layer)
    return stand_ins


def _unreplaceable(root: nn.Module, plain: dict[str, Geometry]) -> dict[str, str]:
    uses = Counter(id(tensor) for _, module in root.named_modules() for tensor in module._parameters.values())
    paths = Counter(id(module) for _, module in root.named_modules(remove_duplicate=False))
    reasons: dict[str, str] = {}
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


def _calls(geometry: Geometry, calls: list[TracedCall]) -> list[Call]:
    """What the calls of a layer cost."""
    found = []
    for one in calls:
        shape = shape_of(one.inputs[0])
        count = torch.Size(shape).numel()
        if geometry.kernel:
            size = shape[len(shape) - len(geometry.kernel) :]
            found.append(Call(count // (geometry.in_channels * torch.Size(size).numel()), size))
        else:
            found.append(Call(count if geometry.form == "embedding" else count // geometry.in_channels))
    return found


_RELUS = ("relu", "relu_")


def _follower(name: str, record: Trace, root: nn.Module) -> tuple[str | None, bool]:
    """(name of the batch normalization that alone reads a layer's output, whether a ReLU alone reads what is then)."""
    output = record.single_output(name)
    reader = record.only_reader(output) if output is not None else None
    norm = None
    if reader is not None and "batch_norm" in reader.op:
        norm = next((path for path, module in root.named_modules() if _mean_key(module) in reader.inputs), None)
        reader = record.only_reader(reader.outputs[0]) if norm is not None else None
    return norm, reader is not None and reader.op in _RELUS


def _mean_key(module: nn.Module) -> Key | None:
    mean = getattr(module, "running_mean", None)
    return key_of(mean) if isinstance(mean, Tensor) else None
