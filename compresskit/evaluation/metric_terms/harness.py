"""Tasks of EleutherAI's lm-evaluation-harness, whose descriptions and data lie on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ...core.errors import InputError, require
from ...core.tensors.devices import device_of
from ..intervals import Z95, Score

_BOOTSTRAPS = 100


def lm_eval(
    module: nn.Module,
    *,
    task: str = "",
    folder: str = "",
    tokenizer: str = "",
    measure: str = "acc",
    limit: int = 0,
    batch_size: int = 8,
) -> Score:
    """What the harness measures of a language model in one of its tasks.

    Args:
        module: a transformers model that predicts tokens.
        task: the name of the task.
        folder: of YAML files that describe tasks, with their data on the disk; without it, a task of the harness's own,
            whose data must be in the cache of the library datasets.
        tokenizer: its folder; without it, the one that the model was loaded from.
        measure: which of the task's metrics.
        limit: only so many examples; 0 takes all.
        batch_size: of requests.
    Returns:
        the metric, with an interval of 1.96 standard errors as the harness gives them.
    Raises:
        InputError: if the library is missing, no task is named, or it has no such metric.
    Source: Gao et al., "A framework for few-shot language model evaluation", 2021.
    """
    if not task:
        raise InputError("metric lm-eval needs the name of a task, e.g. --metric-arg task=arc_easy")
    config: Any = getattr(module, "config", None)
    place = tokenizer or getattr(config, "_name_or_path", "")
    if config is None or not Path(place).is_dir():
        raise InputError("metric lm-eval takes transformers models; name their tokenizer by --metric-arg tokenizer=DIR")
    harness = require("lm_eval", "lm-eval")
    model = require("lm_eval.models.huggingface", "lm-eval").HFLM(
        pretrained=module, tokenizer=_tokenizer(place), batch_size=batch_size, device=str(device_of(module))
    )
    manager = require("lm_eval.tasks", "lm-eval").TaskManager(include_path=folder or None, include_defaults=not folder)
    found = harness.simple_evaluate(
        model, tasks=[task], task_manager=manager, limit=limit or None, bootstrap_iters=_BOOTSTRAPS, log_samples=False
    )
    results = found["results"][task]
    values = {key.split(",")[0]: value for key, value in results.items() if isinstance(value, float | int)}
    if measure not in values:
        known = ", ".join(name for name in values if not name.endswith(("_stderr", "_len")))
        raise InputError(f"task {task!r} measures no {measure!r}, but {known}; name it by --metric-arg measure=")
    value, error = float(values[measure]), float(values.get(f"{measure}_stderr", 0.0))
    return Score(value, value - Z95 * error, value + Z95 * error, int(results.get("sample_len", 0)))


def _tokenizer(folder: str) -> Any:
    return require("transformers", "hf").AutoTokenizer.from_pretrained(folder)


vars(lm_eval).update(takes_module=True, scale="share")
