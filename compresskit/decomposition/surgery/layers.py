"""Replaying decomposition's edits, and putting factors into a model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.manifest.edit_records import LARGEST_SIZE, EditRecord, Integer, Name, reads
from ...core.tensors.modules import get_module, set_module, tensor_of
from ..methods import lstm
from ..methods.geometry import Geometry, build, from_record, geometry_of, record_of
from ..methods.kinds import Ranks, chain_of, compose
from ..tables import KINDS

_MOST_LINKS = 64
_Rank = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
_Layer = dict[Name, bool | Integer | float | Name | Annotated[list[Integer], Field(max_length=3)] | None]


class FactoredRecord(EditRecord):
    """The kind of chain, its ranks, and whether the last layer has a bias (none is said of an LSTM).

    A chain of a kind that did not come with the package says its layers, so that nobody's code is needed to load it.
    """

    kind: Name
    rank: _Rank | Annotated[list[_Rank], Field(max_length=1024)]
    bias: bool = False
    links: Annotated[list[_Layer], Field(min_length=1, max_length=_MOST_LINKS)] | None = None


class MergedRecord(EditRecord):
    """One plain layer: the fields of a `Geometry`, or the arguments of nn.LSTM."""

    layer: _Layer


@reads(FactoredRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, kind, rank: int | [ints], bias, links}: the layer at target becomes an empty chain of smaller ones.

    Raises:
        InputError: if there is no such layer or kind, or the kind or rank does not fit it.
    """
    if edit["kind"] == lstm.KIND:
        lstm.replay(root, edit)
        return
    layer = get_module(root, edit["target"])
    geometry = _plain(layer, edit["target"])
    if edit.get("links"):
        chain = [from_record(link) for link in edit["links"]]
    elif KINDS.builtin(edit["kind"]):
        ranks = edit["rank"] if isinstance(edit["rank"], list) else [edit["rank"]]
        chain = chain_with_bias(edit["kind"], geometry, tuple(int(rank) for rank in ranks), bool(edit["bias"]))
    else:
        raise InputError(f"kind {edit['kind']!r} is not one of {', '.join(KINDS)}, and its links are not said")
    set_module(root, edit["target"], build_chain(chain, layer))


@reads(MergedRecord)
def replay_merged(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, layer: {...}}: the chain at target becomes one empty plain layer."""
    if edit["layer"].get("form") == "lstm":
        lstm.replay_merged(root, edit)
        return
    chain = get_module(root, edit["target"])
    if not isinstance(chain, nn.Sequential) or not len(chain):
        raise InputError(f"{edit['target']!r} is a {type(chain).__name__}, not a chain of layers")
    merged = build(from_record(edit["layer"]), tensor_of(chain[0]))
    set_module(root, edit["target"], merged.train(chain.training))


def factor_edit(target: str, kind: str, ranks: Ranks, bias: bool, geometry: Geometry) -> dict[str, Any]:
    """The edit that `replay` reads."""
    edit: dict[str, Any] = {
        "op": "factored", "target": target, "kind": kind, "rank": ranks[0] if len(ranks) == 1 else list(ranks),
        "bias": bias,
    }  # fmt: skip
    if not KINDS.builtin(kind):
        edit["links"] = [record_of(link) for link in chain_with_bias(kind, geometry, ranks, bias)]
    return edit


def chain_with_bias(kind: str, geometry: Geometry, ranks: Ranks, bias: bool) -> list[Geometry]:
    """The chain of a kind; its last layer has a bias if `bias`, whether or not the layer had one."""
    return chain_of(KINDS.load(kind), replace(geometry, bias=bias), ranks)


def build_chain(chain: list[Geometry], layer: nn.Module) -> nn.Sequential:
    """Empty layers of a chain with the device, number type and mode of the layer they replace."""
    return nn.Sequential(*(build(link, tensor_of(layer)) for link in chain)).train(layer.training)


def install(
    root: nn.Module, target: str, kind: str, ranks: Ranks, factors: list[Tensor], bias: Tensor | None
) -> dict[str, Any]:
    """Replace a layer by the chain of its factors, and return the edit that says so.

    Args:
        factors: the links' weights in calling order.
        bias: (out,) for the last link, or None.
    """
    layer = get_module(root, target)
    edit = factor_edit(target, kind, ranks, bias is not None, _plain(layer, target))
    replay(root, edit)
    links = list(get_module(root, target).children())
    with torch.no_grad():
        for link, factor in zip(links, factors, strict=True):
            tensor_of(link).copy_(factor)
            tensor_of(link).requires_grad_(tensor_of(layer).requires_grad)
        if bias is not None:
            tensor_of(links[-1], "bias").copy_(bias)
    return edit


def recompose(root: nn.Module, edits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge every chain that a "factored" edit made back into one plain layer, in place.

    Args:
        edits: the model's edits so far; chains that a later step changed in number or kind of layers are left alone.
    Returns:
        the "merged" edits, to append.
    """
    merged: list[dict[str, Any]] = []
    done: set[str] = set()
    for edit in reversed(edits):  # a layer decomposed twice is merged from the inside out
        target: str = edit.get("target", "")
        if edit.get("op") == "merged":
            done.add(target)
        if edit.get("op") != "factored" or target in done:
            continue
        done.add(target)
        if edit["kind"] == lstm.KIND:
            if isinstance(get_module(root, target), lstm.FactoredLSTM):
                merged.append(lstm.merge(root, target))
            continue
        record = _merge_chain(root, target)
        if record is not None:
            merged.append({"op": "merged", "target": target, "layer": record})
    return merged


def _merge_chain(root: nn.Module, target: str) -> dict[str, Any] | None:
    chain = get_module(root, target)
    parts = list(chain) if isinstance(chain, nn.Sequential) else []
    links = [geometry for geometry in map(geometry_of, parts) if geometry is not None]
    if not links or len(links) < len(parts) or any(link.bias for link in links[:-1]):
        return None
    geometry = merged_geometry(links)
    first = tensor_of(parts[0])
    layer = build(geometry, first).train(chain.training)
    factors = [tensor_of(part).detach().double() for part in parts]
    with torch.no_grad():
        tensor_of(layer).copy_(compose(geometry, links, factors))
        if geometry.bias:
            tensor_of(layer, "bias").copy_(tensor_of(parts[-1], "bias"))
    tensor_of(layer).requires_grad_(first.requires_grad)
    set_module(root, target, layer)
    return record_of(geometry)


def merged_geometry(links: list[Geometry]) -> Geometry:
    """The one layer that a chain computes: per axis the kernel, stride and padding of the link that has them."""
    first, last = links[0], links[-1]
    if first.form == "folded":
        return Geometry(
            "linear", first.repeats * first.in_channels, last.repeats * last.out_channels, bias=last.bias
        )  # fmt: skip
    axes = range(len(first.kernel))

    def reach(axis: int, link: Geometry) -> tuple[int, int]:
        return link.kernel[axis], link.stride[axis]

    bearing = [max(links, key=partial(reach, axis)) for axis in axes]
    spatial = max(links, key=lambda link: link.taps)
    transposed = [link for link in links if link.form == "conv-transpose"]
    padding = spatial.padding
    if axes and not isinstance(padding, str):
        pads = [link.padding for link in links if not isinstance(link.padding, str)]
        padding = tuple(max(pad[axis] for pad in pads) for axis in axes)
    return replace(
        first,
        form=transposed[0].form if transposed else first.form,
        out_channels=last.out_channels,
        kernel=tuple(link.kernel[axis] for axis, link in zip(axes, bearing, strict=True)),
        stride=tuple(max(link.stride[axis] for link in links) for axis in axes),
        padding=padding,
        dilation=tuple(link.dilation[axis] for axis, link in zip(axes, bearing, strict=True)),
        groups=min(link.groups for link in links),
        padding_mode=spatial.padding_mode,
        bias=last.bias,
        output_padding=tuple(max(link.output_padding[axis] for link in transposed) for axis in axes if transposed),
    )


def _plain(layer: nn.Module, target: str) -> Geometry:
    geometry = geometry_of(layer)
    if geometry is None:
        raise InputError(f"{target!r} is a {type(layer).__name__}, which has no decomposition")
    return geometry
