"""One model judged on data: its metric with its interval beside its size, without changing or writing anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.errors import InputError
from ...quantization.kv_cache import quantize_cache
from ..measurement import evaluate, measure_model
from ..opening import open_context
from ..recipe import RecipeOptions


def evaluate_model(
    options: RecipeOptions, log: Callable[[str], None] = lambda line: None, *, kv_bits: int | None = None
) -> dict[str, Any]:
    """The metric of a model on the test split of its data, and what the model costs.

    Args:
        options: name model, data, task and metric.
        log: prints a line of progress.
        kv_bits: bits of the keys and values that a causal transformers model caches; None leaves them as they are.
    Returns:
        {model, data, metric: {name, value, low, high, samples}, and each cost by its key in reports}.
    Raises:
        InputError: without data, or where model, data or metric do not open or fit.
    """
    if not options.data:
        raise InputError("evaluate needs data; name some with --data, e.g. --data imagefolder:DIR")
    context = open_context(options, log)
    if kv_bits is not None:
        quantize_cache(context.original.module, kv_bits)
    metric = evaluate(context.original, context, options)
    measured = measure_model(context.original, context, options, taken={"metric": metric})
    assert context.data is not None  # it was named
    return {"model": options.model, "data": options.data, "applied": context.data.notes(), **measured.record()}
