"""Finding a model's tensors among all that a checkpoint holds, whatever they are nested in and prefixed with.

A nested checkpoint is read as one mapping of dotted names, so that `{"model": {"conv.weight": ...}}` and
`{"model.conv.weight": ...}` are the same, and one prefix before the model's own names is all that has to be found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from .forms import plain_forms

_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module"}
_PLAIN = {"state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"}
_AVERAGED = re.compile(r"(^|[_-])(ema|swa|averaged?|shadow)([_-]|\d*$)|^(ema|swa)|modelema", re.IGNORECASE)
#: buffers that libraries and profilers add or once stored; no model needs them from a file
_BOOKKEEPING = {
    "num_batches_tracked",
    "total_ops",
    "total_params",
    "position_ids",
    "inv_freq",
    "relative_position_index",
    "attn_mask",
    "masked_bias",
    "_extra_state",
}
_SHOWN = 3


@dataclass
class Match:
    """One way to read a checkpoint as a model's weights.

    Attributes:
        prefix: what stands before the model's names in the checkpoint.
        added: what stands before the checkpoint's names in the model.
        values: the model's tensor name -> value.
        missing: the model's tensors that the checkpoint lacks.
        misshapen: the model's tensors that have another shape in the checkpoint.
        unexpected: tensors of the checkpoint that belong to layers which the model has otherwise.
        folded: the model's tensors that were computed from others (weight norm, masks).
        left_out: parts of the checkpoint that are not the model's -> how many tensors.
    """

    prefix: str
    added: str
    values: dict[str, Tensor]
    missing: list[str]
    misshapen: list[str]
    unexpected: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)

    @property
    def is_full(self) -> bool:
        """Whether all of the model is there and nothing contradicts it."""
        return not (self.missing or self.misshapen or self.unexpected)

    @property
    def averaged(self) -> bool:
        """Whether the prefix names a moving average of the weights."""
        return any(_AVERAGED.search(segment) for segment in self.prefix.split("."))

    @property
    def key(self) -> str:
        """The prefix as `FILE#KEY` takes it."""
        return self.prefix.removesuffix(".")


def find_matches(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[Match]:
    """Ways to read tensors as a model's weights, best first; several only where all of them fit fully.

    The plain copy comes before a moving average, known names (`state_dict`, `model`, ...) before others, short before
    long. The list is never empty: the nearest way is there although it does not fit.
    """
    matcher = _Matcher(module, tensors)
    matches = [matcher.match(prefix, added) for prefix, added in matcher.candidates()]
    full = [match for match in matches if match.is_full]
    if not full:
        return [max(matches, key=matcher.closeness)]
    return sorted(full, key=_preference)


def _preference(match: Match) -> tuple:
    segments = [segment for segment in match.prefix.split(".") if segment]
    unknown = sum(segment not in _PLAIN for segment in segments)
    return match.averaged, len(match.added), unknown, len(segments), match.prefix


def choose(matches: list[Match], where: str) -> Match:
    """The match to load.

    Raises:
        InputError: if two parts of the checkpoint fit equally well and differ.
    """
    best, *others = matches
    rivals = [
        other
        for other in others
        if _preference(other)[:3] == _preference(best)[:3]
        and best.prefix
        and _preference(best)[2]
        and _differ(best, other)
    ]
    if rivals:
        keys = ", ".join(f"#{match.key}" for match in [best, *rivals][: _SHOWN + 1])
        raise InputError(
            f"{where} holds several sets of weights that fit the model ({keys}); choose one, e.g. FILE#{best.key}"
        )
    return best


def describe(best: Match, others: Iterable[Match], where: str) -> list[str]:
    """One line on what was taken from a checkpoint, where that is more than the whole file as it is."""
    parts = []
    if best.averaged:
        parts.append(f"took the averaged weights {best.key!r}, as the plain ones are not there")
    elif best.prefix:
        parts.append(f"took {best.key!r}")
    if best.added:
        parts.append(f"put {best.added!r} before its names")
    if best.folded:
        parts.append(f"computed {len(best.folded)} plain weights from their stored form ({_listed(best.folded)})")
    others = [other for other in others if _differ(best, other)]
    if others:
        names = ", ".join(f"#{other.key}" if other.key else "the rest" for other in others)
        parts.append(f"left out {names}, which fits too")
    inside = [f"{other.key}." for other in others]
    dropped = {
        part: count
        for part, count in best.left_out.items()
        if not any(key.startswith(f"{part}.") or f"{part}.".startswith(key) for key in inside)
    }
    if dropped:
        counted = [f"{part} ({count})" for part, count in list(dropped.items())[:5]]
        more = ", ..." if len(dropped) > 5 else ""
        parts.append(f"dropped what is not the model's: {', '.join(counted)}{more}")
    return [f"{where}: {'; '.join(parts)}"] if parts else []


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


def _differ(one: Match, other: Match) -> bool:
    return any(not torch.equal(value, other.values[name]) for name, value in one.values.items() if name in other.values)


class _Matcher:
    """A model's names and a checkpoint's, looked up by prefix."""

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor]):
        self.expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        self.names = {_without_wrappers(name): name for name in self.expected}
        self.tensors: dict[str, Tensor] = {}
        for name, value in tensors.items():
            self.tensors.setdefault(_without_wrappers(name), value)
        self.forms = plain_forms(self.tensors)
        self.forms_of: dict[str, set[str]] = {}
        for form, (_, sources) in self.forms.items():
            for source in sources:
                self.forms_of.setdefault(source, set()).add(form)
        self.available = {**self.tensors, **{name: value for name, (value, _) in self.forms.items()}}
        self.optional = {name for name in self.names if name.endswith("num_batches_tracked")}
        self.aliases = _aliases(module)
        self.hidden = {_without_wrappers(name) for name, _ in module.named_buffers()} - set(self.names)

    def candidates(self) -> list[tuple[str, str]]:
        """(prefix in the checkpoint, prefix in the model), where at least one name and shape agrees; best first."""
        hits: Counter = Counter()
        for added in self._common_prefixes():
            bare = {name.removeprefix(added): self.expected[full] for name, full in self.names.items()}
            for name, value in self.available.items():
                for start in (0, *(found.end() for found in re.finditer(r"\.", name))):
                    target = bare.get(name[start:])
                    if target is not None:
                        hits[name[:start], added] += 2 if _same_shape(value, target) else 1
        if not hits:
            return [(_shared_prefix(self.tensors), "")]
        most = max(hits.values())
        # a part of the model's names is only ever an error to describe
        near = [pair for pair, count in hits.most_common() if 2 * count >= most]
        return near[:200]

    def match(self, prefix: str, added: str) -> Match:
        """The checkpoint read with one prefix."""
        values, folded, used = {}, [], set()
        for name, full in self.names.items():
            source = prefix + name.removeprefix(added)
            if source not in self.available:
                continue
            values[full] = self.available[source]
            used.add(source)
            if source not in self.tensors:
                folded.append(full)
                used.update(self.forms[source][1])
        missing = sorted(
            full
            for name, full in self.names.items()
            if full not in values and name not in self.optional and not (self.aliases.get(full, set()) & set(values))
        )
        misshapen = [name for name, value in values.items() if not _same_shape(value, self.expected[name])]
        match = Match(prefix, added, values, missing, misshapen, folded=folded)
        tops = {name.removeprefix(added).partition(".")[0] for name in self.names}
        for name in self.tensors:
            if name in used or self._explained(name, used):
                continue
            if not name.startswith(prefix):
                match.left_out[_top(name, prefix)] += 1
                continue
            rest = name.removeprefix(prefix)
            if self._contradicts(rest, added, tops):
                match.unexpected.append(rest)
            else:
                match.left_out[prefix + rest.partition(".")[0]] += 1
        match.unexpected.sort()
        return match

    def closeness(self, match: Match) -> tuple[int, int]:
        """How near a match comes that does not fit: tensors of the right name and shape, less what contradicts."""
        right = sum(_same_shape(value, self.expected[name]) for name, value in match.values.items())
        return right, -len(match.unexpected)

    def _explained(self, name: str, used: set[str]) -> bool:
        """Whether a stored form's other tensors were needed for one that was used, e.g. u beside a folded weight."""
        return not used.isdisjoint(self.forms_of.get(name, ()))

    def _contradicts(self, rest: str, added: str, tops: set[str]) -> bool:
        """Whether an unused tensor shows that the checkpoint is of another model than this one."""
        leaf, first = rest.rpartition(".")[2], rest.partition(".")[0]
        if leaf in _BOOKKEEPING or added + rest in self.hidden:
            return False
        if first in tops:
            return True
        base = first.rstrip("0123456789")
        # a further layer beside numbered ones: conv3 where the model has conv1 and conv2
        return base != first and any(top.rstrip("0123456789") == base for top in tops)

    def _common_prefixes(self) -> list[str]:
        """'' and whatever all of the model's names begin with, segment by segment."""
        shared = _shared_prefix(self.names)
        ends = [found.end() for found in re.finditer(r"\.", shared)]
        return ["", *(shared[:end] for end in ends)]


def _shared_prefix(names: Iterable[str]) -> str:
    """The whole segments that all names begin with; their last segment never counts."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = []
    for column in columns:
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(f"{segment}." for segment in shared)


def _without_wrappers(name: str) -> str:
    if not any(wrapper in name for wrapper in _WRAPPERS):
        return name
    return ".".join(segment for segment in name.split(".") if segment not in _WRAPPERS)


def _same_shape(value: Tensor, target: Tensor) -> bool:
    return value.shape == target.shape or value.numel() == target.numel() == 1


def _top(name: str, prefix: str) -> str:
    """The part of a checkpoint that a name belongs to: its segments up to where it leaves the prefix."""
    kept = []
    wanted = prefix.split(".")
    for number, segment in enumerate(name.split(".")):
        kept.append(segment)
        if number >= len(wanted) or segment != wanted[number]:
            break
    return ".".join(kept)


def _aliases(module: nn.Module) -> dict[str, set[str]]:
    """Names that share one parameter: name -> the other names."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name: set(names) - {name} for names in groups.values() if len(names) > 1 for name in names}
