"""Which transformers families and ultralytics detectors go through every technique, are saved, reload and verify.

    python ../shared/cases/hf_folders.py /tmp/hf
    python benchmarks/language/families.py --folders /tmp/hf --out benchmarks/results/families.md
    python benchmarks/language/families.py --folders /tmp/hf llama t5 --verify all

Each folder holds a small model with random weights. Every cell is one whole run of a recipe in this process, as the
command line makes it: checks, technique, measurement, artifact, which saving reloads and compares. `inspect` lists the
layers; `verify` loads the last artifact of the row again and compares its probe, also in a fresh process where
`--verify` says so. A cell is `ok`, `refused` (an InputError or a missed guard, exit code 2 or 3; the reasons follow
the table), or `CRASH` (anything else, exit code 1).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from compresskit.artifact import artifact
from compresskit.artifact.source import load_model
from compresskit.core.errors import CompresskitError
from compresskit.core.timings.machine import machine
from compresskit.core.types import Loaded
from compresskit.pipeline.inspection.looking import inspect_model, verify_artifact
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

STEPS: dict[str, dict[str, Any]] = {
    "prune channels": {"prune": {"target_macs": 0.5}},
    "prune blocks": {"prune": {"granularity": "block", "ratio": 0.25}},
    "int4": {"quantize": {"scheme": "int4-weight"}},
    "svd": {"decompose": {"rank_by": "keep-ratio", "keep_ratio": 0.5, "slower_layers": "allow"}},
}
DETECTORS = ("v8n", "v10n", "v11n", "v8n_seg")
DETECTOR_INPUT = "3,128,128"
COLUMNS = ("inspect", "save", *STEPS, "verify")


def outcome(work: Callable[[], Any], exits: tuple[int, ...] = (2, 3)) -> str:
    """What became of a piece of work: ok, refused with the reason, or a crash with the exception."""
    try:
        found = work()
    except CompresskitError as error:
        return f"{'refused' if error.exit_code in exits else 'CRASH'}: {' '.join(str(error).split())}"
    except Exception as error:  # what a user would see as exit code 1
        return f"CRASH: {type(error).__name__}: {' '.join(str(error).split())}"
    return found if isinstance(found, str) else "ok"


def row_of(model: str, inputs: list[str], folder: Path, verify: str) -> dict[str, str]:
    """The outcomes of one model, by column.

    Args:
        model: the model string.
        inputs: example inputs, where the model brings none.
        folder: an empty folder for the artifacts.
        verify: "load" compares the probe in this process, "all" in a fresh one too.
    """
    row: dict[str, str] = {}
    loaded: list[Loaded] = []

    def inspect() -> None:
        loaded.append(load_model(model, inputs=inputs))
        inspect_model(loaded[0])

    row["inspect"] = outcome(inspect)
    row["save"] = outcome(lambda: artifact.save(loaded[0], folder / "save"))
    for column, step in STEPS.items():
        row[column] = outcome(lambda step=step, column=column: _run(model, inputs, step, folder / column))
    saved = [folder / name for name in ("save", *STEPS) if (folder / name).is_dir()]
    row["verify"] = outcome(lambda: _verified(saved, verify))
    return row


def _run(model: str, inputs: list[str], step: dict[str, Any], output: Path) -> str:
    options = {"model": model, "input": inputs, "latency_rounds": 0, "steps": [step]}
    report = run(Run(validate(options), output, keep_steps=False))
    before, after = report["original"], report["steps"][-1]["measurement"]
    figure = "size_bytes" if "quantize" in step else "macs"
    return f"ok {after[figure] / before[figure]:.2f}"


def _verified(folders: list[Path], verify: str) -> str:
    for folder in folders:
        loaded = artifact.load(folder, trust_source=True)  # raises where the probe differs
        del loaded
    if verify == "all":
        failed = [row for row in verify_artifact(str(folders[-1]), trust_source=True, source=None) if not row["passed"]]
        if failed:
            return f"CRASH: {failed[0]['check']}: {failed[0]['detail']}"
    return f"ok {len(folders)}"


def trains_and_predicts(folder: Path) -> str:
    """Whether a reloaded detector takes a step of its own loss and predicts in its own form afterwards."""
    from ultralytics.cfg import get_cfg

    model = artifact.load(folder, trust_source=True).module
    model.args = get_cfg()
    model.train()
    batch = {
        "img": torch.rand(2, 3, 128, 128),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]]),
        "masks": torch.ones(2, 32, 32),
    }
    model(batch)[0].sum().backward()
    if not all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None):
        return "CRASH: gradients are not finite"
    with torch.no_grad():
        model.eval()(batch["img"])
    return "ok"


def as_markdown(rows: dict[str, dict[str, str]], seconds: float, command: str) -> str:
    """The table, the reasons of everything that is not ok, and how it was made."""
    columns = [*COLUMNS, "trains"]
    cells = [cell for row in rows.values() for cell in row.values()]
    counts = {kind: sum(cell.startswith(kind) for cell in cells) for kind in ("ok", "refused", "CRASH")}
    packages = ("torch", "transformers", "ultralytics")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    place = machine()
    lines = [
        "# Families: every technique on every kind of transformers and ultralytics model",
        "",
        f"`{command}`. {versions}, {place['processor']}, {place['threads']} threads, {seconds:.0f} s.",
        "",
        "Random weights, no data. `prune channels` is `--target-macs 0.5`, `prune blocks` `--granularity block --ratio "
        "0.25`, `int4` `--scheme int4-weight`, `svd` `--rank-by keep-ratio --slower-layers allow`. Figures are "
        "MACs after / before (bytes for int4). Every `ok` run wrote an artifact that was reloaded and compared; "
        "`verify` loads all of the row again and says how many; `trains` is one backward of the reloaded detector's "
        "own loss, and a prediction.",
        "",
        f"{counts['ok']} cells are ok, {counts['refused']} refused with a reason, {counts['CRASH']} crash.",
        "",
        f"| model | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    reasons: list[str] = []
    for name, row in rows.items():
        shown = []
        for column in columns:
            cell = row.get(column, "")
            shown.append(cell.split(":")[0])
            if cell and not cell.startswith("ok"):
                reasons.append(f"- {name}, {column}: {cell}")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join([*lines, *(["", "## Reasons", "", *reasons] if reasons else []), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="folders and detectors to run; all without a name")
    parser.add_argument("--folders", type=Path, default=Path("/tmp/hf"), help="where hf_folders.py wrote")
    parser.add_argument("--detectors", type=Path, default=Path("../shared/cases/yolo.py"), help="file of detectors")
    parser.add_argument("--verify", choices=("load", "all"), default="load", help="all: in a fresh process too")
    parser.add_argument("--out", type=Path, help="markdown file to write")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    models = {
        folder.name: (f"hf:{folder}", [])
        for folder in sorted(options.folders.iterdir())
        if (folder / "config.json").is_file()
    }
    if options.detectors.is_file():
        models |= {name: (f"{options.detectors.resolve()}:{name}", [DETECTOR_INPUT]) for name in DETECTORS}
    unknown = set(options.names) - set(models)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(models)}")
    started = time.perf_counter()
    rows: dict[str, dict[str, str]] = {}
    for name, (model, inputs) in models.items():
        if options.names and name not in options.names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row_of(model, inputs, Path(folder), options.verify)
            pruned = Path(folder) / "prune channels"
            if name in DETECTORS:
                rows[name]["trains"] = outcome(lambda path=pruned: trains_and_predicts(path))
        print(name, "; ".join(f"{column}: {cell[:300]}" for column, cell in rows[name].items()), flush=True)
    command = f"python benchmarks/language/families.py --folders {options.folders} --verify {options.verify}"
    text = as_markdown(rows, time.perf_counter() - started, command)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
