"""What a technique is handed besides its model and options, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from ..core.errors import InputError
from ..core.timings.decisions import Decisions
from ..core.types import Inputs, Loaded
from ..data.dataset import Data
from ..data.text.unpadding import without_padding
from ..evaluation.losses import Loss
from ..evaluation.metrics import Metric
from ..evaluation.tasks import Task


class Profile(NamedTuple):
    """Milliseconds of one forward: of each layer's own nodes, and of all nodes."""

    layers: dict[str, float]
    total_ms: float


class RuntimeTimer(Protocol):
    """Times models in the runtime that computes in integers, which eager PyTorch does not (`export.layer_timing`)."""

    def profiles(self, modules: list[nn.Module], example: Inputs, names: Iterable[str]) -> list[Profile]:
        """Of each model, the time of each named layer."""
        ...

    def latencies_ms(self, modules: list[nn.Module], example: Inputs, rounds: int = ...) -> list[float]:
        """Milliseconds of one forward of each model, taken in turn."""
        ...


@dataclass
class Context:
    """What the runner hands to a technique besides the model and its options.

    Attributes:
        original: the model before any step; the default teacher and the baseline of every comparison.
        data: opened data, or None where the recipe names none.
        metric: the metric callable, or None where there is no data.
        loss: a row of LOSSES against the data's own targets, loaded; None goes by their kind.
        task: what the model is for, as told from a batch; None where there is no data, or it is not known.
        seed: the run's seed; a technique derives every generator from it.
        device: where to compute.
        log: prints one line of progress to stderr.
        recover: trains a Loaded in place by the step's recover/training options (iterative schedules call it
            between cuts); the runner calls it once after the step by itself.
        load: turns a model string into a Loaded (for teachers and students), same rules as the command line.
        recipe: the whole recipe as plain data, for techniques that write one; None outside of a recipe.
        latency_batch: examples a forward where latency is measured.
        eval_batch: examples a forward where a metric is measured.
        eval_limit: the number of test examples that a metric is measured on; None takes all.
        folder: a scratch folder kept for this step across a kill and --resume (caches, checkpoints, plots).
        data_key: changes with the content of the data's files, for what is cached beyond one run.
        runtime: what times layers where latency in int8 is asked for.
        own_costs: costs of the user's own that are measured, too, because a step's budget or guard names them.
        decisions: times that decide weights are measured through it, so that a resume and a replay decide alike.
    """

    original: Loaded
    data: Data | None = None
    metric: Metric | None = None
    seed: int = 0
    device: torch.device = torch.device("cpu")
    log: Callable[[str], None] = lambda line: None
    recover: Callable[[Loaded], dict[str, Any]] | None = None
    load: Callable[..., Loaded] | None = None
    folder: Path | None = None
    recipe: dict[str, Any] | None = None
    latency_batch: int = 1
    eval_batch: int = 256
    eval_limit: int | None = None
    decisions: Decisions = field(default_factory=Decisions)
    data_key: str = ""
    loss: Loss | None = None
    task: Task | None = None
    runtime: RuntimeTimer | None = None
    own_costs: tuple[str, ...] = ()

    def needs_data(self, what: str = "this") -> Data:
        """The data.

        Args:
            what: who needs it, in the words of the message.
        Raises:
            InputError: if the recipe names none.
        """
        if self.data is None:
            raise InputError(f"{what} needs data; name it with --data, e.g. --data imagefolder:DIR")
        return self.data

    def calibration_batches(self, samples: int, *, batch_size: int = 64, what: str = "this") -> list[Inputs]:
        """Inputs of training examples for statistics and ranges of activations, without positions that are padding.

        Args:
            samples: how many.
            batch_size: the most of a batch.
            what: who needs them, in the words of the message.
        Raises:
            InputError: if the recipe names no data.
        """
        return without_padding(self.needs_data(what).calibration(samples, batch_size=batch_size, seed=self.seed))

    def needs_metric(self) -> Metric:
        """The metric.

        Raises:
            InputError: if there is no data to measure one on.
        """
        if self.metric is None:
            raise InputError("this needs data to measure the metric on; name it with --data")
        return self.metric

    def needs_recovery(self) -> Callable[[Loaded], dict[str, Any]]:
        """What trains a changed model by the step's options.

        Raises:
            InputError: if the caller gave none.
        """
        if self.recover is None:
            raise InputError("training between cuts is done by the context; give it recover=")
        return self.recover

    def needs_folder(self) -> Path:
        """The step's scratch folder.

        Raises:
            InputError: if the caller gave none.
        """
        if self.folder is None:
            raise InputError("files of the step go to a folder of the context; give it folder=")
        return self.folder

    def runtime_timer(self) -> RuntimeTimer:
        """What times layers in int8.

        Raises:
            InputError: if the caller gave none.
        """
        if self.runtime is None:
            raise InputError("a latency of int8 is measured in a runtime; give the context runtime=export.layer_timing")
        return self.runtime


@dataclass
class StepResult:
    """What a technique returns.

    Attributes:
        loaded: the changed model; its edits include the new ones.
        facts: JSON-able figures for report.json, keyed by plain names with units.
        notes: lines a reader of the report must see (groups left out, a target missed and why).
        tables: named tables for the console and report: name -> list of JSON-able row dicts.
        files: name -> path of files (plots, exports) in the step folder to copy into the artifact.
        figures: fields of the step's measurement that the technique took itself, of what it made beside the model.
        labels: what kind of figures these are, by name.
        says: clauses that guards say them in, by cost: "model.onnx takes {}".
        missed: budgets that the result exceeds, a clause each; the step then ends as one that missed a guard.
    """

    loaded: Loaded
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
