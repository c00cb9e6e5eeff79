"""The techniques as functions: made from their rows, with signatures from their options models.

Imports no torch; the work is in `running`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ..core.errors import InputError, nearest
from ..core.options import Options
from ..export.options import ExportOptions
from ..pipeline.inspection.bench_options import BenchOptions, PredictOptions
from ..pipeline.recipe import RecipeOptions
from ..pipeline.techniques import TECHNIQUES
from . import signatures
from .signatures import Parameter

MODEL = Parameter(
    "model",
    "Model",
    ...,
    "a model string, an artifact directory, an nn.Module (left as it is) or the Result of an earlier call",
)
_MODELS = Parameter("models", "Model | Sequence[Model]", ..., "models as in other verbs, and exported files")
_EXAMPLE = Parameter(
    "example",
    "Example | None",
    None,
    "inputs that a module in memory takes: a tensor, a tuple of positional ones or a mapping of keyword ones, with "
    "their batch dimension; not needed where the data or the module (`example_inputs`, `input_shape`) says it",
)
_PROGRESS = Parameter(
    "progress",
    "Progress",
    None,
    "'rich' prints lines of progress on stderr, a function is called with each line; silent by default",
)
_RUN = (
    Parameter(
        "output",
        "str | os.PathLike[str] | None",
        None,
        "directory to write the artifact to; by default nothing stays on the disk until `Result.save`",
    ),
    Parameter("resume", "bool", False, "go on with what an interrupted call with the same output finished"),
    Parameter("force", "bool", False, "replace an existing output"),
    _PROGRESS,
)
_RAISES = (
    "InputError: (a ValueError) a line for each thing that is wrong, before any work where it can be found out.\n"
    "GuardMissed: if a guard such as max_drop is missed."
)


def keywords_of(verb: str) -> list[Parameter]:
    """The keywords of a verb, its own options first."""
    if verb == "run":
        return [Parameter("assignments", "str | Sequence[str]", (), _ASSIGNMENTS), _EXAMPLE, *_RUN]
    if verb == "measure":
        against = Parameter("against", "Model | None", None, "a model to compare the latency with, interleaved")
        return [against, _EXAMPLE, *signatures.parameters_of(RecipeOptions, ("model", "output")), _PROGRESS]
    if verb == "export":
        own = signatures.parameters_of(ExportOptions)
        shared = signatures.parameters_of(RecipeOptions, EXPORT_LEAVES_OUT)
        output = Parameter("output", "str | os.PathLike[str] | None", None, "file to write; default: runs/model.FORMAT")
        force = Parameter("force", "bool", False, "replace an existing file")
        return [output, *own, _EXAMPLE, *shared, force, _PROGRESS]
    if verb in DEPLOYING:
        return _deploying(verb)
    own = signatures.parameters_of(TECHNIQUES[verb].options_model())
    return [*own, _EXAMPLE, *signatures.parameters_of(RecipeOptions, ("model", "output")), *_RUN]


def _deploying(verb: str) -> list[Parameter]:
    """The keywords of a verb around files that leave."""
    own_model, leave_out = DEPLOYING[verb]
    own = [] if own_model is None else list(signatures.parameters_of(own_model, PACK_LEAVES_OUT))
    shared = signatures.parameters_of(RecipeOptions, tuple(dict.fromkeys([*leave_out, *(one.name for one in own)])))
    if verb == "predict":
        own.insert(0, Parameter("inputs", "str | Sequence[str]", ..., "files and folders, or texts"))
    if verb == "pack":
        output = Parameter("output", "str | os.PathLike[str]", "runs/packed", "folder to write")
        own = [output, *own, Parameter("force", "bool", False, "replace an existing folder of ours")]
    return [*own, *([] if verb == "bench" else [_EXAMPLE]), *shared, _PROGRESS]


_ASSIGNMENTS = "changes of the recipe, KEY=VALUE, e.g. 'steps.0.prune.ratio=0.6'"
_RECIPE = Parameter(
    "recipe",
    "str | os.PathLike[str] | Mapping[str, Any]",
    ...,
    "a YAML file, or the same as a mapping, in which modules, data and functions may stand for strings",
)
#: recipe options that an export decides by itself
EXPORT_LEAVES_OUT = (
    *("model", "output", "threads", "latency_batch", "latency_rounds", "device", "eval_limit", "eval_batch"),
)

#: options of an export that a packed folder decides by itself
PACK_LEAVES_OUT = ("format", "runtime", "factored", "with_script", "with_past")
_NO_RUN = ("model", "output", "latency_batch", "latency_rounds", "timings", "effort")
_NO_TRAINING = ("task_loss", "task_loss_arg", "workers")
_NO_DATA = ("data", "data_arg", "collate", "task", "metric", "metric_arg", "eval_limit", "eval_batch")
#: verb around files that leave -> (its options, what it leaves out of the recipe's)
DEPLOYING: dict[str, tuple[type[Options] | None, tuple[str, ...]]] = {
    "bench": (BenchOptions, (*_NO_RUN, *_NO_TRAINING, "device", "threads")),
    "predict": (PredictOptions, (*_NO_RUN, *_NO_TRAINING, *_NO_DATA)),
    "evaluate": (None, ("model", "output", "latency_batch", "latency_rounds", "timings", "effort")),
    "pack": (ExportOptions, (*_NO_RUN, *_NO_TRAINING, "device", "threads")),
}

#: verb -> (summary, what it returns as a type, the same in words)
_OTHERS = {
    "run": (
        "Run a recipe: its steps in order, each measured.",
        "Result",
        "the model after the last step, the report, and save()",
    ),
    "export": (
        "Write a model for another runtime, run it there, and compare.",
        "dict[str, Any]",
        "the figures that `--json` prints: file, bytes, agreement, latency, metric in the runtime",
    ),
    "measure": (
        "Measure a model: parameters, MACs, stored bytes, metric, latency, memory.",
        "Measurement",
        "the figures; None stands for what was not measured",
    ),
    "bench": (
        "Measure models, artifacts and exported files side by side, in turn.",
        "list[dict[str, Any]]",
        "a row for each model and runtime: latency, throughput, cold start, memory, size, metric, best (Pareto)",
    ),
    "predict": (
        "Run a model or an exported file on files: images, arrays, sounds, texts.",
        "list[dict[str, Any]]",
        "a record for each example: input and top classes with their shares, or values",
    ),
    "evaluate": (
        "Judge a model or an exported file on the test split of data.",
        "dict[str, Any]",
        "the metric with its interval, and what the model costs",
    ),
    "pack": (
        "Write one folder that runs with the runtime and NumPy alone.",
        "dict[str, Any]",
        "path, names of its files, requirements, figures of the export",
    ),
}
VERBS = (*TECHNIQUES, *_OTHERS)


def described(verb: str) -> tuple[str, Parameter, str, str]:
    """(summary, first argument, return type, what is returned) of a verb."""
    if verb in _OTHERS:
        summary, returns, words = _OTHERS[verb]
    else:
        summary, returns, words = TECHNIQUES[verb].summary, "Result", "the compressed model, its report, and save()"
    first = {"run": _RECIPE, "bench": _MODELS}.get(verb, MODEL)
    return summary, first, returns, words


def _in_groups(verb: str) -> list[str]:
    """Options of groups, which may be given by themselves: `recover="kd", epochs=2`."""
    return [leaf.name for leaf in TECHNIQUES[verb].options_model().leaves()] if verb in TECHNIQUES else []


@cache
def verb(name: str) -> Callable[..., Any]:
    """The function of a verb."""
    summary, first, returns, words = described(name)
    keywords = keywords_of(name)

    def function(*arguments: Any, **options: Any) -> Any:
        given = bound(name, first.name, arguments, options, [*(one.name for one in keywords), *_in_groups(name)])
        from . import running

        runner: Callable[[str, Any, dict[str, Any]], Any] = running.RUNNERS.get(name, running.technique)
        return runner(name, given, options)

    signature = signatures.signature(first, keywords, returns)
    function.__name__ = function.__qualname__ = name
    function.__module__ = "compresskit"
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in (first, *keywords)} | {"return": returns}
    function.__doc__ = signatures.docstring(summary, first, keywords, {"Returns": words, "Raises": _RAISES})
    return function


def bound(verb: str, first: str, arguments: tuple[Any, ...], options: dict[str, Any], known: list[str]) -> Any:
    """The one positional argument of a call, taken out of the keywords where it was given by name.

    Raises:
        InputError: if it is missing, there are several, or a keyword is unknown.
    """
    values = [*arguments, *([options.pop(first)] if first in options else [])]
    if len(values) != 1:
        raise InputError(f"{verb} takes one {first} and keyword options, got {len(values)} positional arguments")
    for name in options:
        if name not in known:
            raise InputError(f"{verb}: unknown option {name!r}{nearest(name, known)}")
    return values[0]
