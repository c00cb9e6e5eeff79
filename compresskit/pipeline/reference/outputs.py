"""JSON schemas of what `--json` prints, so that programs can rely on it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...core.costs import cost_of, names
from ...core.errors import InputError, nearest

#: raised where a key goes or changes its meaning; new keys do not raise it
SCHEMA_VERSION = 1

_Schema = dict[str, Any]
_TEXT: _Schema = {"type": "string"}
_TEXTS: _Schema = {"type": "array", "items": _TEXT}
_NUMBER: _Schema = {"type": "number"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_MAYBE_NUMBER: _Schema = {"type": ["number", "null"]}
_MAYBE_TEXT: _Schema = {"type": ["string", "null"]}
_ANY: _Schema = {"type": "object"}


def _object(properties: dict[str, _Schema], optional: tuple[str, ...] = ()) -> _Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _metric() -> _Schema:
    found = _object(
        {"name": _TEXT, "value": _NUMBER, "samples": {"type": "integer"}, "low": _MAYBE_NUMBER, "high": _MAYBE_NUMBER},
        optional=("low", "high"),
    )
    return {"anyOf": [found, {"type": "null"}]}


def _figures() -> dict[str, _Schema]:
    """Each cost by its key: a number, or a record of times; null where it was not measured."""
    return {
        cost_of(name).figure: {"type": ["object", "null"] if cost_of(name).known == "timed" else ["number", "null"]}
        for name in names()
    }


def _measurement() -> _Schema:
    figures = _figures()
    return _object({**figures, "metric": _metric(), "zero_share": _MAYBE_NUMBER}, optional=tuple(figures))


def _report() -> _Schema:
    step = _object(
        {
            "technique": _TEXT, "options": _ANY, "seconds": _NUMBER, "measurement": _measurement(), "labels": _ANY,
            "facts": _ANY, "notes": _TEXTS, "tables": {"type": "object", "additionalProperties": _list(_ANY)},
            "warnings": _TEXTS, "timings": _ANY, "effort": _ANY,
        },
        optional=("timings", "effort"),
    )  # fmt: skip
    return _object(
        {
            "report_version": {"const": SCHEMA_VERSION}, "command": _TEXTS, "recipe": _ANY, "seed": {"type": "integer"},
            "versions": _ANY, "machine": _ANY, "original": _measurement(), "steps": _list(step), "warnings": _TEXTS,
            "labels": _ANY, "phases": {"type": "object", "additionalProperties": _NUMBER}, "weights_sha256": _TEXT,
        },
        optional=("phases",),
    )  # fmt: skip


def _plan() -> _Schema:
    row = _object({"step": _TEXT, "options": _TEXT, "how": _TEXT, "seconds": _MAYBE_NUMBER})
    effort = _object({"place": _TEXT, "effort": _MAYBE_TEXT, "chosen": _ANY, "seconds": _MAYBE_NUMBER})
    return _object(
        {
            "model": _TEXT, "data": _MAYBE_TEXT, "output": _MAYBE_TEXT, "plan": _list(row), "efforts": _list(effort),
            "warnings": _TEXTS, "splits": {"type": ["object", "null"]},
        }
    )  # fmt: skip


def _inspect() -> _Schema:
    layer = _object(
        {
            "layer": _TEXT, "kind": _TEXT, "weight": {"type": ["array", "null"]}, "output": {"type": ["array", "null"]},
            "parameters": {"type": "integer"}, "macs": _NUMBER, "bytes": {"type": "integer"}, "applies": _TEXT,
        }
    )  # fmt: skip
    figures = _figures()
    return _object(
        {
            "name": _TEXT, "source": {}, "layers": _list(layer), **figures, "macs_leave_out": _TEXTS,
            "edits": {"type": "integer"}, "storage": _ANY,
        },
        optional=tuple(figures),
    )  # fmt: skip


def _diff() -> _Schema:
    layer = _object(
        {
            "layer": _TEXT, "a": _MAYBE_TEXT, "b": _MAYBE_TEXT, "parameters_a": _MAYBE_NUMBER,
            "parameters_b": _MAYBE_NUMBER,
        }
    )  # fmt: skip
    figure = _object({"figure": _TEXT, "a": {}, "b": {}, "b/a": _MAYBE_NUMBER})
    return _object({"layers": _list(layer), "figures": _list(figure), "edits": _object({"a": {}, "b": {}})})


def _evaluate() -> _Schema:
    measured = _measurement()
    return _object(
        {"model": _TEXT, "data": _TEXT, "applied": _TEXTS, "warnings": _TEXTS, **measured["properties"]},
        optional=(*_figures(), "zero_share"),
    )


def _verify() -> _Schema:
    return _list(_object({"check": _TEXT, "passed": {"type": "boolean"}, "detail": _TEXT}))


def _doctor() -> _Schema:
    return _list(_object(dict.fromkeys(("kind", "name", "works", "detail", "install"), _TEXT)))


def _compare() -> _Schema:
    return _list({"type": "object", "additionalProperties": _TEXT})


def _bench() -> _Schema:
    times = _object({"batch_size": _COUNT, **dict.fromkeys(("low_ms", "median_ms", "high_ms", "per_second"), _NUMBER)})
    started = {"cold_start_ms": _MAYBE_NUMBER, "load_ms": _NUMBER, "first_run_ms": _NUMBER, "cold_start_note": _TEXT,
               "peak_memory_bytes": _MAYBE_NUMBER}  # fmt: skip
    metric = _metric()
    metric["anyOf"][0]["properties"]["higher_is_better"] = {"type": "boolean"}
    return _list(
        _object(
            {
                "model": _TEXT, "runtime": _TEXT, "runtime_version": _MAYBE_TEXT, "threads": _COUNT,
                "size_bytes": _MAYBE_NUMBER, "latency": _list(times), "metric": metric, "best": {"type": "boolean"},
                "note": _TEXT, **started,
            },
            optional=("note", *started),
        )
    )  # fmt: skip


def _predict() -> _Schema:
    classes = _list(_object({"index": _COUNT, "label": _MAYBE_TEXT, "score": _NUMBER}))
    outputs = {"top": classes, "shares": classes, "shape": _list(_COUNT), "values": _list({})}
    return _list(_object({"input": _TEXT, **outputs}, optional=tuple(outputs)))


def _pack() -> _Schema:
    return _object({"model": _TEXT, "path": _TEXT, "files": _TEXTS, "requirements": _TEXTS, "figures": _ANY})


def _export() -> _Schema:
    layers = {"layers": _list(_ANY), "layer_times": _list(_ANY), "notes": _TEXT}
    return _object(
        {
            "model": _TEXT, "path": _TEXT, "file": _TEXT, "format": _TEXT, "file_bytes": _COUNT, "runtime": _TEXT,
            "runtime_version": _MAYBE_TEXT, "quantized_layers": _COUNT, **layers,
        },
        optional=tuple(layers),
    )  # fmt: skip


def _explain() -> _Schema:
    return _list(_object({"kind": _TEXT, "name": _TEXT, "meaning": _TEXT}))


def _error() -> _Schema:
    error = _object(
        {
            "kind": {"enum": ["bug", "bad_input", "guard_missed", "interrupted"]},
            "exit_code": {"enum": [1, 2, 3, 130]}, "messages": _TEXTS, "artifact": _MAYBE_TEXT,
        }
    )  # fmt: skip
    return _object({"error": error})


#: what prints it -> (its schema, one line)
OUTPUTS: dict[str, tuple[Callable[[], _Schema], str]] = {
    "report": (_report, "run, and each technique: report.json and --json"),
    "plan": (_plan, "run and each technique with --dry-run"),
    "inspect": (_inspect, "layers and totals of a model"),
    "diff": (_diff, "two models side by side"),
    "evaluate": (_evaluate, "a model judged on data"),
    "verify": (_verify, "the checks of an artifact"),
    "doctor": (_doctor, "what works here"),
    "bench": (_bench, "models and files side by side, a row for each runtime"),
    "predict": (_predict, "a model run on files, a row an example: classes, shares of classes, values or boxes"),
    "export": (_export, "a file for another runtime, and its figures there"),
    "pack": (_pack, "a folder that runs with the runtime alone"),
    "explain": (_explain, "options, rows of tables and terms of a name"),
    "compare": (_compare, "finished runs side by side, cells as a person reads them"),
    "error": (_error, "any command that ends with another code than 0 and printed nothing else"),
}


def output_schema(name: str) -> _Schema:
    """The JSON schema of an output.

    Args:
        name: a key of OUTPUTS.
    Raises:
        InputError: naming the nearest.
    """
    if name not in OUTPUTS:
        raise InputError(f"no output {name!r}{nearest(name, OUTPUTS)}")
    schema, about = OUTPUTS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"compresskit/{name}/{SCHEMA_VERSION}",
        "title": f"compresskit {name}", "description": about, "schema_version": SCHEMA_VERSION, **schema(),
    }  # fmt: skip
