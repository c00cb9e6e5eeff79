"""What `bench` and `predict` take. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from ...core.options import Options, choice, option
from ...export.tables import RUNTIMES


class BenchOptions(Options):
    """Measure models and files side by side."""

    runtime: list[Annotated[str, choice(RUNTIMES)]] = option(
        [], "runtime of models that are no files; default: eager; several for a row each; files run in their own",
        section="Bench",
    )  # fmt: skip
    batch_size: int = option(
        1, "inputs a forward; latency at 1 is measured beside it where it is more", section="Bench", ge=1, le=1 << 20
    )
    rounds: int = option(12, "rounds in which all take turns", section="Bench", ge=1, le=100_000)
    threads: int = option(1, "threads of every runtime", section="Bench", ge=1, le=1024)
    cold_start: Literal["measure", "skip"] = option(
        "measure", "load and run each once in a fresh process; for its time and its peak of memory: measure, skip",
        section="Bench",
    )  # fmt: skip


class PredictOptions(Options):
    """Run a model on files."""

    top: int = option(5, "classes to show of each input, the likeliest first", section="Predict", ge=1, le=1000)
    labels: str | None = option(
        None, "text file with the name of a class a line; where the model does not say them", section="Predict",
        takes="file",
    )  # fmt: skip
    batch_size: int = option(16, "inputs a forward", section="Predict", ge=1, le=1 << 20)
    runtime: Annotated[str, choice(RUNTIMES)] = option(
        "auto", "runtime of an exported file; auto: the one made for its format", section="Predict"
    )
