"""One model judged on data: its metric with its interval beside its size, without changing or writing anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.costs import BYTES, cost_of
from ...core.errors import InputError
from ...core.types import Loaded
from ...export.lowering import bytes_on_disk
from ...export.opening import is_file, open_file
from ...model.strings import is_exported
from ...quantization.kv_cache import quantize_cache
from ..checks.sanity import baseline_warnings, sanity_warnings
from ..measurement import evaluate, measure_model
from ..opening import open_context, open_model
from ..recipe import Recipe, RecipeOptions


def evaluate_model(
    options: RecipeOptions, log: Callable[[str], None] = lambda line: None, *, kv_bits: int | None = None
) -> dict[str, Any]:
    """The metric of a model on the test split of its data, and what the model costs.

    Args:
        options: name model, data, task and metric.
        log: prints a line of progress.
        kv_bits: bits of the keys and values that a causal transformers model caches; None leaves them as they are.
    Returns:
        {model, data, metric: {name, value, low, high, samples}, and each cost by its key in reports}; of an exported
        file the size alone.
    Raises:
        InputError: without data, or where model, data or metric do not open or fit.
    """
    if not options.data:
        raise InputError("evaluate needs data; name some with --data, e.g. --data imagefolder:DIR")
    opens_here = is_file(options.model) and not is_exported(options.model)
    if opens_here:
        options = options.model_copy(update={"device": "cpu"})
    context = open_context(options, log, open_any if opens_here else None)
    if kv_bits is not None:
        quantize_cache(context.original.module, kv_bits)
    warnings: list[str] = []

    def warn(lines: list[str]) -> None:
        warnings.extend(lines)
        for line in lines:
            log(f"warning: {line}")

    recipe = Recipe(options, ())
    warn(sanity_warnings(recipe, context))
    metric = evaluate(context.original, context, options)
    warn(baseline_warnings(recipe, context, metric))
    assert context.data is not None  # it was named
    found = {"model": options.model, "data": options.data, "applied": context.data.notes(), "warnings": warnings}
    if opens_here:  # there are no layers to count anything of
        return {**found, cost_of(BYTES).figure: bytes_on_disk(Path(options.model)), "metric": metric}
    measured = measure_model(context.original, context, options, taken={"metric": metric})
    return {**found, **measured.record()}


def open_any(options: RecipeOptions, runtime: str = "auto") -> Loaded:
    """The model that options name, or the exported file in its runtime.

    Raises:
        InputError: if it does not open, or an option would be ignored.
    """
    if not is_file(options.model):
        if runtime != "auto":
            raise InputError(f"runtime would be ignored: model {options.model!r} is no exported file; export it first")
        return open_model(options)
    for name in ("weights", "model_arg", "source"):
        if getattr(options, name):
            raise InputError(f"{name} would be ignored: model {options.model!r} is an exported file; leave it out")
    return open_file(
        options.model,
        runtime="eager" if runtime == "auto" and is_exported(options.model) else runtime,
        threads=options.threads or 1,
        inputs=list(options.input) or None,
        trust_source=options.trust_source,
    )
