"""One measurement of a model, and how it compares with the original: what reports and guards are made of."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..analysis.measure import measure
from ..artifact import artifact
from ..artifact.codecs.storage import encode_all
from ..core.errors import InputError
from ..core.types import Loaded, to_device
from ..model.example_inputs import with_batch
from ..training.context import Context
from .recipe import RecipeOptions


@dataclass(frozen=True)
class Measurement:
    """Figures of one model; None stands for "not measured".

    Attributes:
        parameters: weights the model computes with.
        macs: multiply-accumulates of one forward at batch size 1.
        size_bytes: size of the stored weights file.
        metric: mean, interval and sample count of the metric.
        latency: interleaved A/B against the original, or None.
        peak_memory_bytes: allocations of one forward at batch size 1, on top of weights.
        zero_share: share of zeros among weights stored sparsely, or None.
    """

    parameters: int
    macs: int
    size_bytes: int
    metric: dict[str, Any] | None
    latency: dict[str, Any] | None
    peak_memory_bytes: int | None
    zero_share: float | None

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def measure_model(
    loaded: Loaded,
    context: Context,
    options: RecipeOptions,
    *,
    size_bytes: int | None = None,
    against: Loaded | None = None,
) -> Measurement:
    """Measure a model.

    Args:
        loaded: what to measure.
        context: data, metric and device.
        options: evaluation and latency settings.
        size_bytes: size of its weights file where it is already stored; None writes one to find out.
        against: the latency baseline; None leaves latency unmeasured.
    """
    example = to_device(with_batch(loaded.example, 1), context.device)
    latency = None
    if against is not None and options.latency_rounds:
        latency = asdict(
            measure.latency_ab(
                against.module,
                loaded.module,
                to_device(with_batch(loaded.example, options.latency_batch), context.device),
                rounds=options.latency_rounds,
                batch_size=options.latency_batch,
            )
        )
    return Measurement(
        measure.parameter_count(loaded.module),
        measure.macs(loaded.module, example),
        stored_bytes(loaded) if size_bytes is None else size_bytes,
        evaluate(loaded, context, options),
        latency,
        measure.peak_memory_bytes(loaded.module, example),
        zero_share(loaded),
    )


def evaluate(loaded: Loaded, context: Context, options: RecipeOptions) -> dict[str, Any] | None:
    """The metric on the test split, or None without data."""
    if context.data is None or context.metric is None:
        return None
    batches = context.data.batches("test", batch_size=context.eval_batch, limit=options.eval_limit)
    score = context.metric(loaded.module, batches, context.device)
    return {"name": context.metric.name, **asdict(score)}


def stored_bytes(loaded: Loaded) -> int:
    """Size of the weights file this model is stored in, found by writing it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / artifact.WEIGHTS
        try:
            save_file(encode_all(artifact.unique_tensors(loaded.module)[0], loaded.storage), path)
        except OSError as error:
            raise InputError(f"cannot write to {folder!r} to measure the stored size: {error.strerror}") from error
        return path.stat().st_size


def zero_share(loaded: Loaded) -> float | None:
    """Share of zeros among the tensors that are stored as a bitmap."""
    tensors = dict(loaded.module.named_parameters()) | dict(loaded.module.named_buffers())
    sparse = [tensors[name] for name, codec in loaded.storage.items() if codec == "bitmap" and name in tensors]
    elements = sum(tensor.numel() for tensor in sparse)
    return sum(int((tensor == 0).sum()) for tensor in sparse) / elements if elements else None


def is_simulated(loaded: Loaded) -> bool:
    """Whether low-bit layers compute in float here, so that latency says nothing of integer kernels."""
    return any(getattr(layer, "weight_elements", None) is not None for layer in loaded.module.modules())


def labels(loaded: Loaded) -> dict[str, str]:
    """What kind of figure each one is: stored, executed or simulated."""
    executed = (
        "simulated: low-bit arithmetic in float; export to run integer kernels"
        if is_simulated(loaded)
        else "executed: torch eager"
    )
    return {
        "size_bytes": "stored: size of the weights file",
        "latency": executed,
        "metric": executed,
        "macs": "executed: counted while running",
    }


def warnings_of(before: Measurement, after: Measurement) -> list[str]:
    """What a step made worse, in words: larger, more MACs, slower, fewer zeros."""
    found = []
    if after.size_bytes > before.size_bytes:
        found.append(f"this step made the stored weights larger: {before.size_bytes:,} to {after.size_bytes:,} bytes")
    if after.macs > before.macs:
        found.append(f"this step added MACs: {before.macs:,} to {after.macs:,}")
    if before.latency and after.latency and after.latency["speedup_high"] < before.latency["speedup_low"]:
        found.append(
            f"this step made the model slower: {before.latency['speedup']:.2f}x to {after.latency['speedup']:.2f}x "
            "of the original's speed"
        )
    if before.zero_share and (after.zero_share or 0.0) < before.zero_share - 0.01:
        found.append(f"this step lost sparsity: {before.zero_share:.1%} to {after.zero_share or 0.0:.1%} zeros")
    return found
