"""One search four ways: in one process, killed and resumed, by two processes on one study, and spread over Ray workers.

    python benchmarks/search/search_together.py --cifar DIR --weights FILE [--policies random evolution solve] \
        [--seeds 0 1 2]

Each way is the command line as a user has it, with the same number of candidates altogether: ResNet-20 at half its
multiply-accumulates. What is printed is the best candidate's held-out score and the winner's accuracy on the test
images; of two processes the better held-out score counts. A way that a policy does not have is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import compresskit
from compresskit.core.timings.machine import machine

#: policies whose studies several processes may join
JOINED = ("evolution", "tpe")
WAYS = ("alone", "killed and resumed", "two processes", "Ray, two workers")
RESULT = Path(__file__).resolve().parents[1] / "results" / "search_together.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:cifar_resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cifar", required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--policies", nargs="+", default=["random", "evolution", "amc", "solve"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--score-samples", type=int, default=512)
    parser.add_argument("--test-samples", type=int, default=2000)
    parser.add_argument("--rows", type=Path, default=Path("search_together.jsonl"), help="where rows are kept")
    parser.add_argument("--report", action="store_true", help="only write the table from the rows that are there")
    parser.add_argument("--quick", action="store_true", help="one seed, six candidates, results to the terminal only")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.trials, given.test_samples, given.rows = [0], 6, 256, Path("search_together_quick.jsonl")
    return given


def main() -> None:
    given = arguments()
    rows = read(given.rows)
    if given.report:
        RESULT.write_text(table(rows, given))
        return
    done = {(row["policy"], row["way"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for policy in given.policies:
            for way in given.ways:
                if (policy, way, seed) in done or (way == "two processes" and policy not in JOINED):
                    continue
                begin = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    found = searched(given, policy, way, seed, Path(folder))
                row = {"policy": policy, "way": way, "seed": seed, **found}
                row["seconds"] = round(time.perf_counter() - begin, 1)
                with given.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps({name: value for name, value in row.items() if name != "choice"}), flush=True)


def searched(given: argparse.Namespace, policy: str, way: str, seed: int, folder: Path) -> dict[str, Any]:
    """One search in one of the ways."""
    common = command(given, policy, seed)
    if way == "two processes":
        joined = [*common, "--storage", f"sqlite:///{folder / 'study.db'}"]
        pair = [started([*joined, "-o", str(folder / name)]) for name in ("one", "two")]
        return max((facts_of(process) for process in pair), key=lambda facts: facts["held_out"])
    own = [*common, "-o", str(folder / "found")]
    if way == "killed and resumed":
        kill_halfway(own, folder / "found", given.trials // 2)
        own.append("--resume")
    elif way == "Ray, two workers":
        own += ["--ray", "2"]
    return facts_of(started(own))


def command(given: argparse.Namespace, policy: str, seed: int) -> list[str]:
    """The search as a user gives it."""
    data = ["--data", f"imagefolder:{given.cifar}", "--eval-limit", str(given.test_samples), "--seed", str(seed)]
    scored = ["--trials", str(given.trials), "--score-samples", str(given.score_samples)]
    refitted = ["--criterion", "reconstruction", "--refit", "inputs", "--latency-rounds", "0", "--json"]
    budget = ["--policy", policy, "--target-macs", f"{given.macs:g}"]
    return ["search", given.model, "--weights", given.weights, *data, *budget, *scored, *refitted]


def started(own: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "compresskit", *own], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


def kill_halfway(own: list[str], output: Path, trials: int) -> None:
    """Start a search and kill it once it has scored so many candidates."""
    process = started(own)
    while process.poll() is None and scored_so_far(output) < trials:
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the search ended before it could be killed: {errors[-500:]}")


def scored_so_far(output: Path) -> int:
    found = list(output.with_name(f"{output.name}.steps").glob("0-search.work/*/ratings.jsonl"))
    return len(found[0].read_text().splitlines()) if found else 0


def facts_of(process: subprocess.Popen) -> dict[str, Any]:
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors[-2000:])
    report = json.loads(out)
    step = report["steps"][-1]
    facts = step["facts"]
    return {
        "held_out": facts["winner_score"], "test": step["measurement"]["metric"]["value"],
        "original": report["original"]["metric"]["value"], "trials": facts["trials"], "choice": facts["choice"],
    }  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(rows: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The results as a page: a row for each policy and way."""
    lines = [
        "# One search four ways", "",
        "`python benchmarks/search/search_together.py --cifar DIR --weights FILE`; what is done stands at the top of",
        f"that file. {given.model} at {given.macs:g} of its multiply-accumulates, {given.trials} candidates in all, "
        f"scored on {given.score_samples} held-out images; the original has {rows[0]['original']:.2%} on "
        f"{given.test_samples:,} test images.", "",
        f"compresskit {compresskit.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{machine()['processor']}, one thread a process.", "",
        "| policy | way | seeds | best held-out score, % | winner on test images, % | same choice as alone |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for policy, way in dict.fromkeys((row["policy"], row["way"]) for row in rows):
        own = [row for row in rows if (row["policy"], row["way"]) == (policy, way)]
        alone = {row["seed"]: row["choice"] for row in rows if (row["policy"], row["way"]) == (policy, "alone")}
        same = sum(row["choice"] == alone.get(row["seed"]) for row in own)
        cells = [policy, way, str(len(own)), *(spread([row[name] for row in own]) for name in ("held_out", "test"))]
        lines.append(f"| {' | '.join([*cells, '' if way == 'alone' else f'{same} of {len(own)}'])} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """The mean in percent, and the range where there are several."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if min(values) == max(values) else f"{mean} ({100 * min(values):.2f} to {100 * max(values):.2f})"


if __name__ == "__main__":
    main()
