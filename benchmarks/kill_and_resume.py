"""Kill a run with -9 at random moments, resume it, and compare with one that nobody disturbed.

A try starts the command, kills it after a random share of the undisturbed run's time, resumes it to its end, and counts
whether all weights are equal bit for bit, and whether anything is left in the folders but the output and its finished
steps. `decompose` chooses by measured times, so that a try killed before they were recorded may choose otherwise: a try
that differs is run once more, undisturbed, with the times that it recorded (option `timings`), and counts as "replayed"
if that gives its weights. Prints a row and appends it to --record where given.

python benchmarks/kill_and_resume.py run --tries 100
python benchmarks/kill_and_resume.py search --tries 50
python benchmarks/kill_and_resume.py decompose --tries 8 --no-kill
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MARKER = ".compresskit.json"
_BASE = {"model": "builtin:digits_cnn", "model_arg": {"width": 16}, "data": "digits", "latency_rounds": 0}
RECIPES = {
    "run": {
        **_BASE,
        "steps": [
            {"train": {"epochs": 3, "lr": 0.1, "batch_size": 64, "checkpoint_steps": 20}},
            {"prune": {"ratio": 0.3, "recover": "finetune", "epochs": 2, "lr": 0.05}},
            {"decompose": {"energy": 0.9, "recover": "finetune", "epochs": 2, "lr": 0.05}},
            {"quantize": {"scheme": "int8-weight"}},
        ],
    },
    "search": {
        **_BASE,
        "steps": [
            {"train": {"epochs": 2, "lr": 0.1, "batch_size": 64}},
            {"search": {"policy": "tpe", "trials": 12, "budget": {"macs": 0.5}}},
        ],
    },
    "decompose": {
        **_BASE,
        "steps": [{"train": {"epochs": 2, "lr": 0.1, "batch_size": 64}}, {"decompose": {"energy": 0.9}}],
    },
}


def command(*more: str) -> list[str]:
    """The command line of a run in its folder."""
    return [sys.executable, "-m", "compresskit", "run", "recipe.json", "-o", "out", *more]


def environment() -> dict[str, str]:
    """One thread, this checkout."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


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
    found = {entry.name for entry in folder.iterdir()} - {"recipe.json", "out", "out.steps"}
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
    settings = {"cwd": folder, "env": environment(), "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command(), **settings, stderr=subprocess.DEVNULL)
    if delay_s is None:
        process.wait()
        phase, killed = "not killed", False
        delay_s = time.monotonic() - begin
    else:
        try:
            process.wait(delay_s)
            killed = False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed = True
        steps = folder / "out.steps"
        done = sorted(entry.name for entry in steps.iterdir() if entry.name[0].isdigit()) if steps.is_dir() else []
        phase = (done[-1] if done else "at the start") if killed else "it had ended"
    resumed = subprocess.run(command("--resume"), **settings, stderr=subprocess.PIPE, text=True, check=False)
    row = {"number": number, "delay_s": delay_s, "killed": killed, "phase": phase, "rc": resumed.returncode}
    if resumed.returncode:
        return {**row, "error": resumed.stderr.splitlines()[-1:], "weights": None, "left": []}
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
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-kill", action="store_true", help="run the same command again and again instead")
    parser.add_argument("--log", type=Path, help="file that gets one JSON line a try")
    parser.add_argument("--record", type=Path, help="file to append the summary to")
    options = parser.parse_args()
    recipe, draw = RECIPES[options.kind], random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill_and_resume.") as root:
        whole = one_try(recipe, Path(root), -1, None)
        whole_s = whole["delay_s"]
        delays = [None if options.no_kill else draw.uniform(0.2, whole_s) for _ in range(options.tries)]
        rows = []
        with ThreadPoolExecutor(options.jobs) as pool:
            tries = [pool.submit(one_try, recipe, Path(root), number, delay) for number, delay in enumerate(delays)]
            for future in tries:
                row = future.result()
                row["equal"] = row["weights"] is not None and row["weights"] == whole["weights"]
                row["replayed"] = not row["equal"] and row["rc"] == 0 and replayed(recipe, Path(root), row)
                row.pop("report", None)
                rows.append(row)
                if options.log:
                    with open(options.log, "a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    equal, again = sum(row["equal"] for row in rows), sum(row["replayed"] for row in rows)
    phases = ", ".join(f"{name} {count}" for name, count in sorted(Counter(row["phase"] for row in rows).items()))
    left = sum(bool(row["left"]) for row in rows)
    failed = sum(row["rc"] != 0 for row in rows)
    killed = sum(row["killed"] for row in rows)
    line = (
        f"| {options.kind} | {options.tries} | {killed} | {equal} | {again} | {failed} | {left} | "
        f"{whole_s:.1f} s | {phases} |"
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
