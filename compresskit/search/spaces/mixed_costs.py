"""What a mixed choice costs: widths follow from the units that stay, ranks from the widths, bytes from all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from ...analysis.measure.work import Work, exact_costs, float_bits, work_of
from ...core.tensors.modules import get_module
from ...core.types import Loaded
from ...decomposition.methods.geometry import Geometry, chain_params
from ...decomposition.methods.kinds import Ranks, chain_of
from ...decomposition.options import DecomposeOptions
from ...decomposition.ranks.candidates import kinds_for
from ...decomposition.surgery.find_layers import Site
from ...decomposition.surgery.layers import chain_with_bias
from ...decomposition.tables import KINDS
from ...pruning.dependency.cost import GraphWork, widths
from ...pruning.dependency.graph import Graph
from ...quantization.layers.quantized_layer import Spec, format_of, matrix_shape
from ..options import SearchOptions
from .decompose import decompose_values, rank_at


class Widths:
    """Shapes of a model's tensors as functions of how many units of each group stay.

    Args:
        module: the whole model.
        graph: its groups; None where no channel goes.
    """

    def __init__(self, module: nn.Module, graph: Graph | None):
        self.tensors: dict[str, Tensor] = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        found = widths(graph, list(self.tensors)) if graph is not None else {}
        self._rows = {
            name: np.stack(rows) for name, rows in found.items() if rows and len(rows) == self.tensors[name].dim()
        }

    def shape(self, name: str, kept: np.ndarray) -> tuple[int, ...]:
        """The shape of a tensor when kept[g] units of group g stay."""
        if name not in self._rows:
            return tuple(self.tensors[name].shape)
        return tuple((self._rows[name] @ np.append(kept, 1.0)).round().astype(int).tolist())

    def groups(self, names: Sequence[str]) -> np.ndarray:
        """The groups on which the shapes of some tensors depend."""
        rows = [self._rows[name][:, :-1] for name in names if name in self._rows]
        return np.flatnonzero(np.concatenate(rows).any(0)) if rows else np.zeros(0, dtype=int)

    def count(self, names: Sequence[str], kept: np.ndarray) -> int:
        """Elements of some tensors."""
        return sum(prod(self.shape(name, kept)) for name in names)

    def size_bytes(self, names: Sequence[str], kept: np.ndarray) -> int:
        """Bytes of some tensors."""
        return sum(prod(self.shape(name, kept)) * self.tensors[name].element_size() for name in names)


@dataclass(frozen=True)
class Chain:
    """A layer as it is when some of its channels are gone, and the smaller layers that take its place."""

    site: Site
    kind: str
    ranks: Ranks
    links: list[Geometry]


@dataclass(frozen=True)
class _Layer:
    """Names of a layer's tensors, and what its costs depend on."""

    own: list[str]
    norm: list[str]  # tensors of the normalization that goes into it when it is quantized
    groups: np.ndarray


class MixedCosts:
    """MACs, parameters and bytes, exact but for scales that turn out to need another number type.

    Args:
        loaded: the whole model.
        graph: its groups; None where no channel goes.
        sites: layers that may be factored, by name.
        shares: for each of them, the shares of its MACs that its levels keep, the whole layer last.
        specs: for each layer that is quantized, how it is stored at each level; none where bits stay as they are.
        folds: (layer, normalization) pairs that become one when quantized.
        options: how layers are factored.
    """

    def __init__(
        self, loaded: Loaded, graph: Graph | None, sites: Mapping[str, Site], shares: Mapping[str, Sequence[float]],
        specs: Mapping[str, list[Spec]], folds: Sequence[tuple[str, str]], options: SearchOptions,
    ):  # fmt: skip
        self._options, self._sites, self._shares, self._specs = options, sites, shares, specs
        self._widths = Widths(loaded.module, graph)
        self._plan = DecomposeOptions.model_validate(decompose_values(options, {"*": 1}))
        norms = dict(folds) if specs else {}
        self._layers = {
            name: self._layer(loaded.module, name, norms.get(name)) for name in dict.fromkeys([*sites, *specs])
        }
        whole = np.array([len(group) for group in graph.groups] if graph is not None else [])
        self._wanted, self._bits = options.costs(), float_bits(loaded.module)
        self.whole = exact_costs(work_of(loaded), self._wanted)
        self._cut = GraphWork(graph) if graph is not None else None
        # what the graph's run does not see (counters, tensors that are never read) is there whatever is cut
        seen = self._of_cut(whole)
        self._unseen = {name: self.whole[name] - figure for name, figure in seen.items()}
        self._changes: dict[tuple, dict[str, float]] = {}
        self._chains: dict[tuple, Chain | None] = {}

    def _layer(self, root: nn.Module, name: str, norm: str | None) -> _Layer:
        own = [f"{name}.{key}" for key in get_module(root, name).state_dict()]
        other = [f"{norm}.{key}" for key in get_module(root, norm).state_dict()] if norm else []
        return _Layer(own, other, self._widths.groups([*own, *other]))

    def __call__(self, kept: np.ndarray, ranks: Mapping[str, int], bits: Mapping[str, int]) -> dict[str, float]:
        """Costs when kept[g] units of group g stay, with levels of rank and bits for layers by name."""
        total = dict(self.whole)
        for name, figure in self._of_cut(kept).items():
            total[name] = self._unseen[name] + figure
        for name, layer in self._layers.items():
            key = (name, kept[layer.groups].tobytes(), ranks.get(name), bits.get(name))
            if key not in self._changes:
                work = self._change(name, kept, ranks.get(name), bits.get(name))
                self._changes[key] = exact_costs(work, self._wanted)
            for cost, change in self._changes[key].items():
                total[cost] += change
        return total

    def _of_cut(self, kept: np.ndarray) -> dict[str, float]:
        return exact_costs(self._cut.at(kept), self._wanted) if self._cut is not None else {}

    def chain(self, name: str, kept: np.ndarray, level: int | None) -> Chain | None:
        """What replaces a layer at a level of rank; None where it stays whole."""
        if level is None or level + 1 >= len(self._shares[name]):
            return None
        key = (name, kept[self._layers[name].groups].tobytes(), level)
        if key not in self._chains:
            self._chains[key] = self._make_chain(self._narrowed(name, kept), self._shares[name][level])
        return self._chains[key]

    def _narrowed(self, name: str, kept: np.ndarray) -> Site:
        site = self._sites[name]
        out_channels, in_channels = self._widths.shape(f"{name}.weight", kept)[:2]
        return replace(site, geometry=replace(site.geometry, in_channels=in_channels, out_channels=out_channels))

    def _make_chain(self, site: Site, share: float) -> Chain | None:
        """The largest rank within a share of the layer's MACs, at least 1, where that makes the layer smaller."""
        kinds = kinds_for(site, self._plan)
        if not kinds:
            return None
        kind = KINDS.load(kinds[-1])
        rank = rank_at(site, self._options, share) or 1
        ranks = tuple(min(rank, limit) for limit in kind.limits(site.geometry))
        # a fit to data shifts the outputs' mean, which goes into the normalization or else into a bias
        links = chain_with_bias(kinds[-1], site.geometry, ranks, site.geometry.bias or site.norm is None)
        saves = site.saves(chain_of(kind, site.geometry, ranks)) and site.saves(links)
        return Chain(site, kinds[-1], ranks, links) if saves else None

    def _change(self, name: str, kept: np.ndarray, rank: int | None, bits: int | None) -> Work:
        """What rank and bits add to the work of the cut model; mostly below 0."""
        layer, chain, widths = self._layers[name], self.chain(name, kept, rank), self._widths
        itemsize = widths.tensors[layer.own[0]].element_size()
        macs, outputs = {self._bits: 0.0}, 0.0
        if chain is not None:
            factored, whole = (chain.site.work_of(links, itemsize) for links in (chain.links, [chain.site.geometry]))
            macs = {self._bits: sum(factored.macs.values()) - sum(whole.macs.values())}
            outputs = factored.activation_bytes - whole.activation_bytes
        if bits is None:
            fewer = 0 if chain is None else chain_params(chain.links) - chain.site.params
            return Work(macs, fewer, fewer * itemsize, fewer * itemsize, outputs)
        spec = self._specs[name][bits]
        weights, others = self._stored(name, kept, chain, spec)
        spec = spec if chain is None else _of_links(spec)
        size = sum(_weight_bytes(count, rows, spec) for count, rows in weights) + others * itemsize
        before = [*layer.own, *layer.norm]
        parameters = [key for key in before if isinstance(widths.tensors[key], nn.Parameter)]
        count = sum(count for count, _ in weights) + others
        fewer_bytes = size - widths.size_bytes(before, kept)
        return Work(macs, count - widths.count(parameters, kept), fewer_bytes, fewer_bytes, outputs)

    def _stored(
        self, name: str, kept: np.ndarray, chain: Chain | None, spec: Spec
    ) -> tuple[list[tuple[int, int]], int]:
        """(elements, rows) of each quantized weight of a layer, and how many elements stay in float beside them."""
        layer, widths = self._layers[name], self._widths
        folded = bool(layer.norm)
        if chain is not None:
            weights = [
                (prod(link.weight_shape), link.weight_shape[1 if link.form == "conv-transpose" else 0])
                for link in chain.links
            ]
            has_bias = folded or chain.links[-1].bias
            return weights, chain.site.geometry.out_channels if has_bias else 0
        quantized = [f"{name}.{parameter}" for parameter in spec.parameters]
        shapes = [widths.shape(key, kept) for key in quantized]
        others = widths.count([key for key in layer.own if key not in quantized], kept)
        if folded and f"{name}.bias" not in layer.own:
            others += shapes[0][spec.axis]
        return [(prod(shape), matrix_shape(torch.Size(shape), spec.axis)[0]) for shape in shapes], others


def _of_links(spec: Spec) -> Spec:
    """How the links of a factored layer are stored: their scales are not small, as a folded layer's may be."""
    return replace(spec, scale_type="float16" if spec.bits < 7 else "float32")


def _weight_bytes(count: int, rows: int, spec: Spec) -> int:
    """Codes, scales and what else the format holds for a quantized weight."""
    return format_of(spec.format).bytes(rows, count // max(rows, 1), spec)
