"""Looking before cutting: why channels are tied (`explain`), and what each group's channels are worth
(`sensitivity`)."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...core.errors import InputError, nearest
from ...core.reporting.figures import new_figure
from ...core.reporting.phases import counted
from ...core.tensors.copying import copy_module
from ...core.types import Loaded
from ...training.context import Context, StepResult
from ..allocation.units import highest
from ..dependency.graph import Graph, Group, Member
from ..dependency.reasons import Ties, why
from .surgery import NotExpressible, cut

RATIOS = (0.25, 0.5, 0.75)
#: validation examples a measurement takes
EXAMPLES = 1000


class Explanation(NamedTuple):
    """What a `StepResult` holds of a look at a layer."""

    facts: dict[str, Any]
    notes: list[str]
    tables: dict[str, list[dict[str, Any]]]


def explain(graph: Graph, layer: str) -> Explanation:
    """The groups that a layer's channels belong to, their members, and what ties each member.

    Args:
        graph: the model's graph.
        layer: a layer's name.
    Raises:
        InputError: if no layer of that name holds channels.
    Returns:
        facts, notes, and a table that lists the members.
    """
    owners = sorted({name.rpartition(".")[0] for s in graph.trace.stored.values() if s.ids for name in s.names})
    if layer not in owners:
        raise InputError(f"explain: no layer {layer!r} holds channels{nearest(layer, owners)}")
    mine = [g for g in graph.groups if any(_of(m, layer) for m in g.members)]
    notes = _stays(graph, layer) if layer in graph.left_out or not mine else []
    rows = [row for group in mine for row in _member_rows(graph, group)]
    facts = {"layer": layer, "groups": [group.name for group in mine], "left_out": graph.left_out.get(layer)}
    return Explanation(facts, notes, {f"channels tied to {layer}": rows} if rows else {})


def _stays(graph: Graph, layer: str) -> list[str]:
    """Why each tensor of a layer keeps its outputs, or its inputs where only these were held."""
    ties = Ties(graph)
    notes = []
    for stored in graph.trace.stored.values():
        name = next((name for name in stored.names if name in (layer, f"{layer}.{name.rpartition('.')[2]}")), None)
        if name is None or len(stored.ids) < 2:
            continue
        for dim, role in ((0, "outputs"), (1, "inputs")):
            if (graph.pinned.keys() >= set(graph.labels[stored.ids[dim].numpy()].tolist())) and len(
                stored.ids[dim]
            ) > 1:
                notes.append(f"{name} keeps its {role}: {why(graph, ties, stored, dim)}")
    return notes or [f"{layer}: the run on the example input never used its weights in a way that fixes channels"]


def _of(member: Member, layer: str) -> bool:
    return any(name.rpartition(".")[0] == layer for name in member.stored.names)


def _member_rows(graph: Graph, group: Group) -> list[dict[str, Any]]:
    reasons = _reasons(graph, group)
    return [
        {
            "group": group.name,
            "units": len(group),
            "tensor": member.name,
            "dimension": member.dim,
            "role": "reads" if member.consumes else "makes" if member.stored.tensor.dim() > 1 else "follows",
            "tied by": reasons.get((id(member.stored), member.dim), ""),
        }
        for member in group.members
    ]


def _reasons(graph: Graph, group: Group) -> dict[tuple[int, int], str]:
    """For each member, the operation that ties it, on the shortest way from the group's first layer."""
    unit = int(group.units[0])
    links: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for pairs, site in zip(graph.trace.ids.edges(), graph.trace.ids.edge_sites, strict=True):
        for left, right in pairs[:, graph.labels[pairs[0]] == unit].T.tolist():
            links[left].append((right, site))
            links[right].append((left, site))
    places: dict[int, tuple[int, int]] = {}
    for member in group.members:
        ids = member.stored.ids[member.dim].numpy()
        for number in ids[member.positions[0]].tolist():
            places.setdefault(number, (id(member.stored), member.dim))
    start = next((n for n, place in places.items() if _is_first(group, place)), next(iter(places)))
    found: dict[tuple[int, int], str] = {places[start]: "it makes them"}
    queue, seen = deque([start]), {start}
    while queue:
        here = queue.popleft()
        for there, site in links[here]:
            if there not in seen:
                seen.add(there)
                queue.append(there)
                if there in places:
                    found.setdefault(places[there], site)
    return found


def _is_first(group: Group, place: tuple[int, int]) -> bool:
    return any(
        (id(m.stored), m.dim) == place and (m.name == group.name or m.name == f"{group.name}.weight") and not m.consumes
        for m in group.members
    )


def sensitivity(loaded: Loaded, graph: Graph, scores: Mapping[str, np.ndarray], context: Context) -> StepResult:
    """The metric after cutting each group alone, at several ratios.

    Args:
        loaded: the model, which stays untouched.
        graph: its graph.
        scores: group name -> scores that say which units go.
        context: needs data and a metric; with a folder, figures are cached there and a plot is written.
    Raises:
        InputError: if the run has no data.
    """
    batches = context.needs_data("sensitivity").batches("val", batch_size=context.eval_batch, limit=EXAMPLES)
    metric = context.needs_metric()
    cache = _Cache(context.folder, loaded, scores)
    base = metric.value(loaded.module, batches)
    rows = []
    for number, group in enumerate(graph.groups, 1):
        row: dict[str, Any] = {"group": group.name, "units": len(group)}
        for ratio in RATIOS:
            value = cache.get(group.name, ratio)
            if value is None:
                value = _measured(loaded, graph, group, scores[group.name], ratio, batches, context)
                cache.put(group.name, ratio, value)
            row[f"-{ratio:.0%}"] = None if value is None else round(value, 4)
        rows.append(row)
        counted(number, len(graph.groups), group.name)
    result = StepResult(loaded, {"metric_before": base, "examples": batches.samples}, [], {"sensitivity": rows})
    plot = _plot(rows, base, context.folder)
    if plot:
        result.files["sensitivity.png"] = plot
    return result


def _measured(
    loaded: Loaded, graph: Graph, group: Group, scores: np.ndarray, ratio: float, batches: Any, context: Context
) -> float | None:
    count = max(1, round(len(group) * (1 - ratio)))
    mask = highest(scores, count)
    module = copy_module(loaded.module)
    try:
        cut(module, graph, graph.keep_ids({group.name: mask}))
        return context.needs_metric()(module, batches).value
    except (NotExpressible, RuntimeError):
        return None  # this group cannot lose so much alone; pruning leaves it out, too


class _Cache:
    """Figures on disk, keyed by the weights and the scores."""

    def __init__(self, folder: Any, loaded: Loaded, scores: Mapping[str, np.ndarray]):
        self._path = None if folder is None else Path(folder) / "sensitivity.json"
        digest = hashlib.sha256(json.dumps(loaded.source, sort_keys=True, default=str).encode())
        for tensor in loaded.module.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(-1).numpy().tobytes())
        for name, values in scores.items():
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        self._key = digest.hexdigest()
        self._values: dict[str, float | None] = {}
        if self._path and self._path.is_file():
            stored = json.loads(self._path.read_text())
            self._values = stored["values"] if stored.get("key") == self._key else {}

    def get(self, group: str, ratio: float) -> float | None:
        return self._values.get(f"{group} {ratio}")

    def put(self, group: str, ratio: float, value: float | None) -> None:
        self._values[f"{group} {ratio}"] = value
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".partial")  # a kill leaves the old file or the new one
            partial.write_text(json.dumps({"key": self._key, "values": self._values}))
            partial.replace(self._path)


def _plot(rows: list[dict[str, Any]], base: float, folder: Any) -> Path | None:
    """Metric against ratio, one line a group; None without a folder or matplotlib."""
    if folder is None:
        return None
    try:
        figure, axes = new_figure(1, (8, 5), "constrained")
    except InputError:
        return None
    for row in rows:
        values = [base, *(row[f"-{ratio:.0%}"] for ratio in RATIOS)]
        axes.plot([0, *RATIOS], [np.nan if v is None else v for v in values], marker=".", label=row["group"])
    axes.set_xlabel("share of the group removed")
    axes.set_ylabel("metric")
    if len(rows) <= 20:
        axes.legend(fontsize="x-small")
    path = Path(folder) / "sensitivity.png"
    figure.savefig(path, dpi=120)
    return path
