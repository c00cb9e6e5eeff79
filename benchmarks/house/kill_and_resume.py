"""Kill a run with -9 at random moments, resume it, and compare with one that nobody disturbed.

A try starts the command, kills it after a random share of the undisturbed run's time, resumes it to its end, and counts
whether all weights are equal bit for bit, and whether anything is left in the folders but the output and its finished
steps. `decompose` chooses by measured times, so that a try killed before they were recorded may choose otherwise: a try
that differs is run once more, undisturbed, with the times that it recorded (option `timings`), and counts as "replayed"
if that gives its weights. Prints a row and appends it to --record where given.

python benchmarks/house/kill_and_resume.py run --tries 100
python benchmarks/house/kill_and_resume.py search --tries 50
python benchmarks/house/kill_and_resume.py decompose --tries 8 --no-kill
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MARKER = ".compresskit.json"
_FOREVER_S = 3600.0
_BASE = {"model": "builtin:digits_cnn", "model_arg": {"width": 16}, "data": "digits", "latency_rounds": 0}
RECIPES = {
    "run": {
        **_BASE,
        "steps": [
            {"train": {"epochs": 2, "lr": 0.1, "batch_size": 64, "checkpoint_steps": 10}},
            {"prune": {"ratio": 0.3, "recover": "finetune", "epochs": 1, "lr": 0.05, "checkpoint_steps": 10}},
            {"decompose": {"energy": 0.9, "kind": "input-svd", "recover": "finetune", "epochs": 1, "lr": 0.05}},
            {"quantize": {"scheme": "int8-weight"}},
        ],
    },
    "search": {
        **_BASE,
        "steps": [
            {"train": {"epochs": 1, "lr": 0.1, "batch_size": 64}},
            {"search": {"policy": "tpe", "trials": 12, "target_macs": 0.5, "score_samples": 200}},
        ],
    },
    "quick": {
        **_BASE,
        "model": "builtin:digits_cnn_small",
        "model_arg": {},
        "steps": [
            {"train": {"epochs": 2, "lr": 0.1, "batch_size": 64, "checkpoint_steps": 5}},
            {"quantize": {"scheme": "int8-weight"}},
        ],
    },
    "decompose": {
        **_BASE,
        "steps": [{"train": {"epochs": 2, "lr": 0.1, "batch_size": 64}}, {"decompose": {"energy": 0.9}}],
    },
}


def import_what_a_run_imports(recipe: dict, root: Path) -> None:
    """Import here what one run of a recipe imports, so that the runs forked from this process find it imported."""
    folder = root / "imports"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(recipe))
    if code := ended(start(folder, modules=folder / "modules.json"), _FOREVER_S):
        sys.exit(f"the undisturbed run ended with {code}: {(folder / 'log.txt').read_text().splitlines()[-1:]}")
    for name in json.loads((folder / "modules.json").read_text()):
        importlib.import_module(name)


def imported_modules() -> list[str]:
    """Names of the modules imported so far that can be imported by name, in the order of their import."""
    return [name for name, module in sys.modules.items() if importable(name, module)]


def importable(name: str, module: object) -> bool:
    """Whether a module was found on the import path under its own name; some libraries put others in the table."""
    spec = getattr(module, "__spec__", None)
    return name != "__main__" and spec is not None and spec.name == name and spec.has_location


def start(folder: Path, *more: str, modules: Path | None = None) -> int:
    """Start `compresskit run` in a folder; the process id.

    It is forked from this process, which has imported torch already: kills then come while the run works, not while it
    imports, and a try takes seconds.

    Args:
        folder: holds recipe.json; gets out, out.steps and log.txt.
        more: further arguments of the command.
        modules: file that gets the names of the modules imported at the end.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["compresskit", "run", "recipe.json", "-o", "out", *more]
        from compresskit.cli.main import main as cli

        cli()
    except SystemExit as error:
        code = int(error.code or 0)
        if modules is not None:
            modules.write_text(json.dumps(imported_modules()))
    finally:
        os._exit(code)


def ended(child: int, within_s: float) -> int | None:
    """The exit code of a process, if it ends within some seconds."""
    deadline = time.monotonic() + within_s
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


def weights_of(folder: Path) -> str:
    """Hash of all weights of an artifact, whatever else its file says."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, value in sorted(load_file(folder / "model.safetensors").items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def left_over(folder: Path, steps: int) -> list[str]:
    """What lies in a finished run's folder besides its recipe, output and finished steps."""
    found = {entry.name for entry in folder.iterdir()} - {"recipe.json", "log.txt", "out", "out.steps"}
    inside = {entry.name for entry in (folder / "out.steps").iterdir()} - {MARKER}
    found |= {name for name in inside if name.endswith(".work") or name.startswith(".")}
    found |= {f"{len(inside)} steps"} if len(inside) != steps else set()
    return sorted(found)


def one_try(recipe: dict, root: Path, number: int, delay_s: float | None) -> dict:
    """Run, kill and resume once; what came of it."""
    folder = root / f"try{number}"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(recipe))
    begin = time.monotonic()
    child = start(folder)
    killed = ended(child, _FOREVER_S if delay_s is None else delay_s) is None
    if killed:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    delay_s = time.monotonic() - begin if delay_s is None else delay_s
    steps = folder / "out.steps"
    done = sorted(entry.name for entry in steps.iterdir() if entry.name[0].isdigit()) if steps.is_dir() else []
    phase = (f"in {done[-1].removesuffix('.work')}" if done else "before the first step") if killed else "not killed"
    code = ended(start(folder, "--resume"), _FOREVER_S)
    row = {"number": number, "delay_s": delay_s, "killed": killed, "phase": phase, "rc": code}
    if code:
        return {**row, "error": (folder / "log.txt").read_text().splitlines()[-1:], "weights": None, "left": []}
    row |= {"weights": weights_of(folder / "out"), "left": left_over(folder, len(recipe["steps"]))}
    report = json.loads((folder / "out" / "report.json").read_text())
    row["report"] = report
    shutil.rmtree(folder)
    return row


def replayed(recipe: dict, root: Path, row: dict) -> bool:
    """Whether an undisturbed run with the times that a try recorded has the try's weights."""
    path = root / f"timings{row['number']}.json"
    path.write_text(json.dumps(row["report"]))
    again = one_try({**recipe, "timings": str(path)}, root, 1000 + row["number"], None)
    return again["weights"] == row["weights"]


def main() -> None:
    """Run the tries, a few at a time, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=RECIPES)
    parser.add_argument("--tries", type=int, default=100, help="how many kills have to come before the run has ended")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-kill", action="store_true", help="run the same command again and again instead")
    parser.add_argument("--log", type=Path, help="file that gets one JSON line a try")
    parser.add_argument("--record", type=Path, help="file to append the summary to")
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in ("torch", "compresskit.cli.main", "compresskit.pipeline.runner"):
        importlib.import_module(module)
    recipe, draw = RECIPES[options.kind], random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill_and_resume.") as root:
        import_what_a_run_imports(recipe, Path(root))
        whole = one_try(recipe, Path(root), -1, None)
        whole_s = whole["delay_s"]
        rows, latest_s = [], whole_s
        while sum(row["killed"] or options.no_kill for row in rows) < options.tries:
            delay = None if options.no_kill else draw.uniform(0.0, latest_s)
            begin = time.monotonic()
            row = one_try(recipe, Path(root), len(rows), delay)
            if delay is not None and not row["killed"]:  # it was faster than the one before: the machine is shared
                latest_s = min(delay, time.monotonic() - begin)
            row["equal"] = row["weights"] is not None and row["weights"] == whole["weights"]
            row["replayed"] = not row["equal"] and row["rc"] == 0 and replayed(recipe, Path(root), row)
            row.pop("report", None)
            rows.append(row)
            if options.log:
                with open(options.log, "a") as file:
                    file.write(json.dumps(row) + "\n")
    equal, again = sum(row["equal"] for row in rows), sum(row["replayed"] for row in rows)
    phases = ", ".join(f"{name} {count}" for name, count in sorted(Counter(row["phase"] for row in rows).items()))
    left = sum(bool(row["left"]) for row in rows)
    failed = sum(row["rc"] != 0 for row in rows)
    killed = sum(row["killed"] for row in rows)
    tries = len(rows)
    line = (
        f"| {options.kind} | {tries} | {killed} | {equal} | {again} | {failed} | {left} | {whole_s:.1f} s | {phases} |"
    )
    print(line)
    for row in rows:
        if row["rc"] or row["left"] or not row["equal"]:
            print(
                {name: row[name] for name in ("number", "delay_s", "phase", "rc", "left", "replayed") if name in row},
                row.get("error", ""),
            )
    if options.record:
        import torch

        with open(options.record, "a") as file:
            machine = f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
            file.write(f"{line}\n\n`python {' '.join(sys.argv)}`; torch {torch.__version__}; {machine}\n\n")


if __name__ == "__main__":
    main()
