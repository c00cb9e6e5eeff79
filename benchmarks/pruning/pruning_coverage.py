"""How many architectures each tool prunes at 50 % of the channels, whether the result is exact, and how long it takes.

    python benchmarks/pruning/pruning_coverage.py torchvision --out benchmarks/results/pruning_coverage_torchvision.md
    # again and again until all rows are there
    python benchmarks/pruning/pruning_coverage.py timm --peer-limit 30 --minutes 5
    python benchmarks/pruning/pruning_coverage.py timm --quick --no-peer

Both tools run in this process, model by model. Times are CPU seconds of one thread (tracing, choosing and cutting; the
proof is timed apart), so that other work on the machine does not enter. Weights are random; normalization statistics
and parameters that start at zero are randomized, so that no output is trivially equal. Finished rows are kept
(`--rows`) and not measured again.

A model counts as covered when what the tool leaves behind runs, gives outputs of the same shapes, and at least a fifth
of the parameters went; for compresskit also when the largest difference between the cut and the masked model, relative
to the largest output, is at most 1e-4 in float32 after groups that fail the proof were left out (as `prune` leaves
them out). The table shows both: the difference with every group cut, and what `prune` would then do.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import platform
import signal
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pruning_coverage_models import SUITES, randomized
from torch import nn

from compresskit.core.types import Loaded, call
from compresskit.pruning.dependency.graph import Group, build_graph
from compresskit.pruning.structured.equivalence import difference, tensors_of
from compresskit.pruning.structured.free_heads import free_heads
from compresskit.pruning.structured.group_equivalence import proven
from compresskit.pruning.structured.surgery import NotExpressible, cut
from compresskit.training.context import Context

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
LARGEST_PARAMETERS = 150e6
LARGEST_DIFFERENCE = 1e-4
LARGEST_SHARE_KEPT = 0.8


def ours(module: nn.Module, example: Any) -> dict[str, Any]:
    """Prune half of every group.

    Returns:
        seconds, difference and reason with every group cut; left_out, params, proven_difference and proof_seconds of
        what `prune` leaves behind.
    """
    start = time.process_time()
    whole = copy.deepcopy(module)
    free_heads(whole)
    graph = build_graph(whole, example)
    keep = {}
    for group in graph.groups:
        keep[group.name] = np.zeros(len(group), dtype=bool)
        keep[group.name][np.argsort(-_norms(group))[: max(1, len(group) // 2)]] = True
    ids = graph.keep_ids(keep)
    small = copy.deepcopy(whole)
    try:
        cut(small, graph, ids)
        fits = True
    except NotExpressible as error:
        fits, reason = False, f"a number is hard-coded ({error})"
    row = {"seconds": time.process_time() - start, "params": count(small) / count(module), "left_out": 0}
    start = time.process_time()
    gap, reason = difference(whole, example, graph, ids) if fits else (float("inf"), reason)
    row |= {"difference": gap, "reason": reason, "proven_difference": gap}
    if not gap <= LARGEST_DIFFERENCE:
        loaded = Loaded(whole, {}, example)
        proof = proven(loaded, graph, keep, Context(loaded))
        cut(whole, graph, graph.keep_ids(proof.keep))
        row |= {"params": count(whole) / count(module), "left_out": len(proof.failed)}
        row |= {"proven_difference": proof.difference}
    return row | {"groups": len(keep), "proof_seconds": time.process_time() - start}


def _norms(group: Group) -> np.ndarray:
    """L2 norms of a group's units in the layer that makes them."""
    member = next((m for m in group.members if not m.consumes and m.stored.tensor.dim() > 1), group.members[0])
    tensor = member.stored.tensor.detach().movedim(member.dim, 0).flatten(1)
    return tensor.norm(dim=1).numpy()[member.positions].sum(1)


def peer(module: nn.Module, example: Any, limit_s: float) -> dict[str, Any]:
    """Torch-Pruning's MagnitudePruner at 50 % of the channels, last layer kept; {seconds, params, reason}."""
    import torch_pruning as tp

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"more than {limit_s:g} s of CPU time")

    start = time.process_time()
    small = copy.deepcopy(module)
    last = [m for m in small.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    heads = {m: m.num_heads for m in small.modules() if isinstance(m, nn.MultiheadAttention)}
    signal.signal(signal.SIGVTALRM, too_long)
    try:
        shapes = _shapes(module, example)
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
        pruner = tp.pruner.MagnitudePruner(
            small, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=last,
            num_heads=heads, round_to=None,
        )  # fmt: skip
        pruner.step()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        seconds = time.process_time() - start
        if _shapes(small, example) != shapes:
            raise ValueError("outputs have another shape")
    except Exception as error:  # any failure of foreign code
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return {"seconds": time.process_time() - start, "params": 1.0, "reason": _line(error)}
    return {"seconds": seconds, "params": count(small) / count(module), "reason": ""}


@torch.no_grad()
def _shapes(module: nn.Module, example: Any) -> list[torch.Size]:
    """Shapes of all outputs but their first dimension (the batch, or how many boxes were found)."""
    return [tensor.shape[1:] for tensor in tensors_of(call(module, example))]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}".replace("|", "/")


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def measure(name: str, build: Any, example: Any, row: dict[str, Any], peer_limit_s: float | None) -> dict[str, Any]:
    """One model's row: what is already there stays, what is missing is measured."""
    try:
        module = randomized(build())
        if count(module) > LARGEST_PARAMETERS:
            return {"name": name, "skipped": f"{count(module) / 1e6:.0f} million parameters"}
        with torch.no_grad():
            call(module, example)
    except Exception as error:
        return {"name": name, "skipped": f"the model itself does not run here: {_line(error)}"}
    row = {"name": name, **row}
    if "ours" not in row:
        try:
            row["ours"] = ours(module, example)
        except Exception as error:
            nothing = {"seconds": 0.0, "params": 1.0, "left_out": 0, "groups": 0, "proof_seconds": 0.0}
            failed = dict.fromkeys(("difference", "proven_difference"), float("inf"))
            row["ours"] = nothing | failed | {"reason": _line(error)}
    if "peer" not in row and peer_limit_s is not None:
        row["peer"] = peer(module, example, peer_limit_s)
    return row


def covered(result: dict[str, Any]) -> bool:
    """The counting rule: exact (or run), and a fifth of the parameters went."""
    good = result["proven_difference"] <= LARGEST_DIFFERENCE if "proven_difference" in result else not result["reason"]
    return good and result["params"] <= LARGEST_SHARE_KEPT


def cells(row: dict[str, Any]) -> str:
    """One line of the table."""
    mine, other = row["ours"], row.get("peer")
    outcome = "yes" if covered(mine) else "NO"
    if mine["left_out"]:
        outcome += f", {mine['left_out']} of {mine['groups']} groups left out"
    if mine["reason"]:
        outcome += f" ({mine['reason']})"
    line = (
        f"| {row['name']} | {outcome} | {mine['params']:.3f} | {mine['difference']:.1e} | "
        f"{mine['proven_difference']:.1e} | {mine['seconds']:.2f} | {mine['proof_seconds']:.2f} |"
    )
    if other is None:
        return f"{line} not run | | |"
    return f"{line} {('yes' if covered(other) else 'NO: ' + (other['reason'] or 'too little went'))} | {other['params']:.3f} | {other['seconds']:.2f} |"  # noqa: E501


def report(suite: str, rows: list[dict[str, Any]], peer_limit_s: float) -> str:
    """The whole result file."""
    done = [row for row in rows if "ours" in row]
    both = [row for row in done if "peer" in row]
    mine = [row["ours"] for row in done]
    how = f"--peer-limit {peer_limit_s:g}" if both else "--no-peer"
    lines = [
        f"# Structured pruning coverage: {suite}",
        "",
        f"`python benchmarks/pruning/pruning_coverage.py {suite} {how}`, run in pieces. "
        f"torch {torch.__version__}, "
        f"Torch-Pruning {metadata.version('torch-pruning')}, {platform.processor() or platform.machine()}, one thread, CPU seconds.",  # noqa: E501
        "",
        f"A model is covered when the outcome keeps its outputs' shapes and at most {LARGEST_SHARE_KEPT:.0%} of the parameters; for "  # noqa: E501
        f"compresskit also when it differs from the masked model by at most {LARGEST_DIFFERENCE:g} (float32, relative to the largest output) "  # noqa: E501
        "after groups that fail the proof were left out, as `prune` leaves them out. Half the channels of every group go; "  # noqa: E501
        "`all cut` is the difference with every group cut, `as prune` the one after leaving groups out.",
        "",
        f"compresskit covers {sum(map(covered, mine))} of {len(done)} ({sum(map(covered, mine)) / max(len(done), 1):.1%}), "  # noqa: E501
        f"{sum(bool(m['left_out']) for m in mine)} of them with groups left out; {sum(m['seconds'] for m in mine):.1f} s in total, "  # noqa: E501
        f"median {np.median([m['seconds'] for m in mine]):.2f} s, and {sum(m['proof_seconds'] for m in mine):.1f} s for the proofs.",  # noqa: E501
    ]
    if both:
        theirs = [row["peer"] for row in both]
        lines += [
            f"Torch-Pruning covers {sum(map(covered, theirs))} of the {len(both)} it was run on (at most {peer_limit_s:g} s of CPU time each), "  # noqa: E501
            f"{sum(t['seconds'] for t in theirs):.1f} s in total, median {np.median([t['seconds'] for t in theirs]):.2f} s; "  # noqa: E501
            f"compresskit covers {sum(covered(row['ours']) for row in both)} of these in {sum(row['ours']['seconds'] for row in both):.1f} s.",  # noqa: E501
        ]
    lines += [
        "",
        "| model | compresskit | params kept | all cut | as prune | s | proof s | Torch-Pruning | params kept | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(cells, done),
    ]
    skipped = [f"{row['name']} ({row['skipped']})" for row in rows if "skipped" in row]
    if skipped:
        lines += ["", f"Not counted: {'; '.join(skipped)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing of one suite and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--quick", action="store_true", help="a few models instead of all")
    parser.add_argument("--only", nargs="*", default=[""], help="models whose name contains one of these")
    parser.add_argument("--no-peer", action="store_true", help="leave Torch-Pruning out")
    parser.add_argument("--peer-limit", type=float, default=60, help="CPU seconds that Torch-Pruning gets a model")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no model after so many minutes")
    parser.add_argument("--rows", type=Path, help="finished rows, one a line; not run again")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.rows or Path(f"pruning_coverage_{arguments.suite}.jsonl")
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    rows = {row["name"]: row for row in lines}  # a later row holds all of an earlier one
    until = time.monotonic() + 60 * arguments.minutes
    limit_s = None if arguments.no_peer else arguments.peer_limit
    for name, build, example in SUITES[arguments.suite](arguments.quick):
        row = rows.get(name, {})
        finished = "skipped" in row or ("ours" in row and (arguments.no_peer or "peer" in row))
        if finished or not any(part in name for part in arguments.only):
            continue
        if time.monotonic() > until:
            print("time is up; run again for the rest", flush=True)
            break
        rows[name] = measure(name, build, example, row, limit_s)
        with path.open("a") as file:
            file.write(json.dumps(rows[name]) + "\n")
        print(cells(rows[name]) if "ours" in rows[name] else f"{name}: {rows[name]['skipped']}", flush=True)
    text = report(arguments.suite, list(rows.values()), arguments.peer_limit)
    if arguments.out:
        arguments.out.write_text(text)
    print(text.partition("\n| model")[0])


if __name__ == "__main__":
    main()
