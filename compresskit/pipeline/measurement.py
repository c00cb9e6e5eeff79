"""One measurement of a model, and how it compares with the original: what reports and guards are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..analysis.measure.generation import generates, generation_ab
from ..analysis.measure.latency import latency_ab
from ..analysis.measure.work import figures_of
from ..core.costs import cost_of, names
from ..core.errors import described
from ..core.types import Loaded, to_device
from ..model.example_inputs import with_batch
from ..training.context import Context
from .recipe import RecipeOptions


@dataclass(frozen=True)
class Measurement:
    """Figures of one model; None stands for "not measured".

    Attributes:
        figures: of each cost, by its key in reports (`costs.Cost.figure`); of a timed one the record of the
            interleaved A/B comparison with the original.
        metric: mean, interval and sample count of the metric.
        zero_share: share of zeros among weights stored sparsely, or None.
    """

    figures: dict[str, Any]
    metric: dict[str, Any] | None
    zero_share: float | None

    def __getitem__(self, name: str) -> Any:
        """The figure of a cost."""
        return self.figures.get(cost_of(name).figure)

    def __getattr__(self, figure: str) -> Any:
        """A figure by its key in reports: `measured.size_bytes`."""
        figures = self.__dict__.get("figures", {})  # a copy asks before there are any
        if figure not in figures:
            raise AttributeError(f"no figure {figure!r}; there are {', '.join(figures)}, metric, zero_share")
        return figures[figure]

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.figures, "metric": self.metric, "zero_share": self.zero_share}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Measurement:
        """Undo `record`; a figure that an earlier version did not measure is None."""
        figures: dict[str, Any] = {cost_of(name).figure: None for name in names()}
        figures |= {key: figure for key, figure in record.items() if key not in ("metric", "zero_share")}
        return cls(figures, record["metric"], record["zero_share"])


def measure_model(
    loaded: Loaded,
    context: Context,
    options: RecipeOptions,
    *,
    size_bytes: int | None = None,
    against: Loaded | None = None,
    taken: Mapping[str, Any] | None = None,
) -> Measurement:
    """Measure a model.

    Args:
        loaded: what to measure.
        context: data, metric and device.
        options: evaluation and latency settings.
        size_bytes: size of its weights file where it is already stored; None writes one to find out.
        against: the latency baseline; None leaves latency unmeasured.
        taken: figures and metric that were measured elsewhere, by their keys in reports.
    """
    taken = dict(taken or {})
    example = to_device(with_batch(loaded.example, 1), context.device)
    known = {} if size_bytes is None else {"size_bytes": size_bytes}
    metric = taken.pop("metric") if "metric" in taken else evaluate(loaded, context, options)
    has_times = any(cost_of(name).figure in taken for name in names("timed"))
    timed = {} if has_times else _timed(loaded, context, options, against)
    figures = figures_of(loaded, example, own=context.own_costs, **known)
    return Measurement(figures | timed | taken, metric, zero_share(loaded))


def _timed(loaded: Loaded, context: Context, options: RecipeOptions, against: Loaded | None) -> dict[str, Any]:
    """The records of timed costs: an A/B comparison with the baseline, or None."""
    record = None
    if against is not None and options.latency_rounds:
        example = to_device(with_batch(loaded.example, options.latency_batch), context.device)
        record = asdict(
            latency_ab(
                against.module, loaded.module, example, rounds=options.latency_rounds, batch_size=options.latency_batch
            )
        )
    timed = {cost_of(name).figure: record for name in names("timed")}
    generated = _generation(loaded, context, against) if record is not None and against is not None else None
    return timed | ({"generation": generated} if generated else {})


def _generation(loaded: Loaded, context: Context, against: Loaded) -> dict[str, Any] | None:
    """The record of generation in turn with the baseline, of models that generate text."""
    example = loaded.example
    prompt = example.get("input_ids") if isinstance(example, Mapping) else example
    if not (generates(against.module) and generates(loaded.module) and isinstance(prompt, Tensor)):
        return None
    try:
        return asdict(generation_ab(against.module, loaded.module, prompt[:1].to(context.device)))
    except Exception as error:  # generate is the library's, over code of the model's own
        context.log(f"generation was not timed: {described(error)}")
        return None


def evaluate(loaded: Loaded, context: Context, options: RecipeOptions) -> dict[str, Any] | None:
    """The metric on the test split, or None without data."""
    if context.data is None or context.metric is None:
        return None
    batches = context.data.batches("test", batch_size=context.eval_batch, limit=options.eval_limit)
    score = context.metric(loaded.module, batches, context.device)
    return {"name": context.metric.name, **asdict(score)}


def zero_share(loaded: Loaded) -> float | None:
    """Share of zeros among the tensors that are stored as a bitmap."""
    tensors = dict(loaded.module.named_parameters()) | dict(loaded.module.named_buffers())
    sparse = [tensors[name] for name, codec in loaded.storage.items() if codec == "bitmap" and name in tensors]
    elements = sum(tensor.numel() for tensor in sparse)
    return sum(int((tensor == 0).sum()) for tensor in sparse) / elements if elements else None


def is_simulated(loaded: Loaded) -> bool:
    """Whether low-bit layers compute in float here, so that latency says nothing of integer kernels."""
    return any(getattr(layer, "weight_elements", None) is not None for layer in loaded.module.modules())


def labels(loaded: Loaded, own_costs: tuple[str, ...] = ()) -> dict[str, str]:
    """What kind of figure each one is: stored, executed or simulated; the user's own say who computed them."""
    executed = (
        "simulated: low-bit arithmetic in float; export to run integer kernels"
        if is_simulated(loaded)
        else "executed: torch eager"
    )
    timed = {cost_of(name).figure: executed for name in names("timed")}
    costs = map(cost_of, (*names(), *own_costs))
    return {cost.figure: cost.label for cost in costs if cost.label} | timed | {"metric": executed}


def warnings_of(before: Measurement, after: Measurement) -> list[str]:
    """What a step made worse, in words: larger, more MACs, slower, fewer zeros."""
    found = []
    for name in names("exact"):
        cost = cost_of(name)
        if not cost.modelled and (after[name] or 0) > (before[name] or 0):
            more = cost.says.format(cost.shown(after[name]))
            found.append(f"this step raised {cost.noun}: {more}, before it {cost.shown(before[name])}")
    for name in names("timed"):
        old, new = before[name], after[name]
        if old and new and new["speedup_high"] < old["speedup_low"]:
            found.append(
                f"this step made the model slower: {old['speedup']:.2f}x to {new['speedup']:.2f}x of the original's "
                "speed"
            )
    if before.zero_share and (after.zero_share or 0.0) < before.zero_share - 0.01:
        found.append(f"this step lost sparsity: {before.zero_share:.1%} to {after.zero_share or 0.0:.1%} zeros")
    return found
