"""Looking at models without changing them: layers, differences, and whether an artifact still is what it was."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ...analysis.calibration.hooks import watch_calls
from ...analysis.measure.latency import latency_ab
from ...analysis.measure.macs import MacCount, count_macs
from ...analysis.measure.work import figures_of
from ...artifact import artifact
from ...core.errors import CompresskitError, InputError, described
from ...core.types import Loaded
from ...core.user_code.user_imports import PACKAGE_FOLDER
from ...model.checkpoints.weights import sha256_of
from ...model.exported import by_layer, single_example

_PRUNABLE = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
_DECOMPOSABLE = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.RNNBase)
_FACTORED_SMALLEST = 2  # a weight with a side below this has no lower rank


def layer_rows(loaded: Loaded) -> tuple[list[dict[str, Any]], MacCount]:
    """One row a layer that holds weights or multiplies: kind, shapes, parameters, MACs, techniques that apply.

    Returns:
        the rows, whose MACs sum to those of the model, and the count they come from.
    Raises:
        InputError: if the model does not take its example.
    """
    shapes: dict[str, Any] = {}
    module, kinds = by_layer(loaded)
    try:
        with watch_calls(module, partial(_note_shape, shapes)):
            counted = count_macs(module, single_example(loaded))
    except CompresskitError:
        raise
    except Exception as error:  # anybody's code
        raise InputError(
            f"model {loaded.name!r} does not take its example input: {described(error)}; give another with --input"
        ) from error
    rows = []
    for name, layer in module.named_modules():
        own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
        macs = counted.by_module.get(name, 0)
        if not own and not macs and getattr(layer, "weight_elements", None) is None:
            continue
        weight = getattr(layer, "weight", None)
        rows.append(
            {
                "layer": name or "(root)",
                "kind": kinds.get(name, type(layer).__name__),
                "weight": list(weight.shape) if isinstance(weight, torch.Tensor) else None,
                "output": shapes.get(name),
                "parameters": sum(p.numel() for p in layer.parameters(recurse=False))
                + int(getattr(layer, "weight_elements", 0) or 0),
                "macs": macs,
                "bytes": sum(t.numel() * t.element_size() for _, t in own),
                "applies": ", ".join(applicable(layer)),
            }
        )
    return rows, counted


def applicable(layer: nn.Module) -> list[str]:
    """Techniques that can act on a layer by itself."""
    found = []
    if isinstance(layer, _PRUNABLE):
        found.append("prune")
    if getattr(layer, "weight_elements", None) is not None:
        return []
    if isinstance(layer, _DECOMPOSABLE):
        found.append("quantize")
        weight = getattr(layer, "weight", None)
        if weight is None or min(weight.shape[:2]) >= _FACTORED_SMALLEST:
            found.append("decompose")
    return found


def _note_shape(shapes: dict[str, Any], name: str, _given: tuple, _named: dict[str, Any], output: Any) -> None:
    first = next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)), None)
    shapes.setdefault(name, None if first is None else list(first.shape))


def inspect_model(loaded: Loaded) -> dict[str, Any]:
    """Layers and totals of a model; `macs_leave_out` names operations whose cost is unknown."""
    rows, counted = layer_rows(loaded)
    return {
        "name": loaded.name,
        "source": loaded.source,
        "layers": rows,
        **figures_of(loaded, single_example(loaded)),
        "macs_leave_out": sorted(counted.uncounted),
        "edits": len(loaded.edits),
        "storage": loaded.storage,
    }


def diff_models(first: Loaded, second: Loaded, first_string: str, second_string: str, rounds: int) -> dict[str, Any]:
    """Layers that differ, edits of each, and figures side by side; latency is an A/B of the two.

    Raises:
        InputError: if one of the models does not take the other's input.
    """
    sides = (("a", first), ("b", second))
    rows = {side: {row["layer"]: row for row in layer_rows(loaded)[0]} for side, loaded in sides}
    changed = []
    for name in dict.fromkeys([*rows["a"], *rows["b"]]):
        a, b = rows["a"].get(name), rows["b"].get(name)
        if a is None or b is None or any(a[key] != b[key] for key in ("kind", "weight", "parameters", "macs", "bytes")):
            changed.append(
                {
                    "layer": name,
                    "a": _layer_text(a),
                    "b": _layer_text(b),
                    "parameters_a": a and a["parameters"],
                    "parameters_b": b and b["parameters"],
                }
            )
    figures = [
        {"figure": key, "a": a, "b": b, "b/a": round(b / a, 4) if a and b else None}
        for key, a, b in _figure_pairs(first, second)
    ]
    latency = None
    if rounds:
        try:
            latency = latency_ab(first.module, second.module, single_example(first), rounds=rounds)
        except Exception as error:  # anybody's code
            raise InputError(
                f"{second_string!r} does not take the input of {first_string!r}: {described(error)}"
            ) from error
        figures.append(
            {
                "figure": "latency_ms",
                "a": latency.baseline_ms,
                "b": latency.model_ms,
                "b/a": round(1 / latency.speedup, 4),
            }
        )
    for string, side in ((first_string, "a"), (second_string, "b")):
        metric = _reported_metric(string)
        if metric:
            row = next((row for row in figures if row["figure"] == metric["name"]), None)
            if row is None:
                row = {"figure": metric["name"], "a": None, "b": None, "b/a": None}
                figures.append(row)
            row[side] = metric["value"]
    return {
        "a": first_string,
        "b": second_string,
        "layers": changed,
        "figures": figures,
        "edits": {"a": first.edits, "b": second.edits},
    }


def _layer_text(row: dict[str, Any] | None) -> str:
    return f"{row['kind']} {row['weight'] or ''}".strip() if row else "absent"


def _figure_pairs(first: Loaded, second: Loaded):
    found, other = (figures_of(loaded, single_example(loaded)) for loaded in (first, second))
    for key, figure in found.items():
        yield key, figure, other[key]


def _reported_metric(string: str) -> dict[str, Any] | None:
    report = artifact.read_report(string) if Path(string).is_dir() else None
    return report["steps"][-1]["measurement"]["metric"] if report and report.get("steps") else None


#: what the fresh process runs; its import path starts without the current folder, so only our package is put first,
#: and only while it is found
_FRESH = """
import json, sys
package_folder, folder, trust, source, threads = json.loads(sys.argv[1])
sys.path.insert(0, package_folder)
import compresskit
del sys.path[0]
results, sys.stdout = sys.stdout, sys.stderr
import torch
from compresskit.artifact import artifact
torch.set_num_threads(threads)  # sums are rounded as their threads share them
loaded = artifact.load(folder, trust_source=trust, source=source, check=False)
print(json.dumps(artifact.probe(loaded)), file=results, flush=True)
"""


def verify_artifact(folder: str, *, trust_source: bool, source: str | None) -> list[dict[str, Any]]:
    """The checks of an artifact, one row each: name, whether it passed, detail.

    Raises:
        InputError: if the folder is no artifact.
    """
    manifest = artifact.read_manifest(folder)
    weights = Path(folder) / artifact.WEIGHTS
    same = weights.is_file() and sha256_of(weights) == manifest["weights_sha256"]
    rows = [{"check": "weights match their sha256", "passed": same, "detail": manifest["weights_sha256"][:16]}]
    if not same:
        return rows
    loaded = artifact.load(folder, trust_source=trust_source, source=source, check=False)
    difference = artifact.probe_difference(loaded, manifest["probe"])
    rows.append(
        {
            "check": "probe output as recorded",
            "passed": difference <= artifact.PROBE_TOLERANCE,
            "detail": f"largest relative difference {difference:.2g}",
        }
    )
    passed, detail = _fresh_reload(folder, trust_source, source, artifact.probe(loaded))
    rows.append({"check": "reload in a fresh process", "passed": passed, "detail": detail})
    return rows


def _fresh_reload(folder: str, trust_source: bool, source: str | None, probe: dict[str, Any]) -> tuple[bool, str]:
    """Whether another process computes the same probe, and what to say about it."""
    given = json.dumps([PACKAGE_FOLDER, str(folder), trust_source, source, torch.get_num_threads()])
    fresh = subprocess.run(
        [sys.executable, "-P", "-c", _FRESH, given],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    lines = fresh.stdout.splitlines()
    if fresh.returncode or not lines:
        return False, (fresh.stderr.strip().splitlines() or ["no output"])[-1]
    equal = json.loads(lines[-1]) == json.loads(json.dumps(probe))
    return equal, "bit-equal probe" if equal else "the probe differs between two processes"
