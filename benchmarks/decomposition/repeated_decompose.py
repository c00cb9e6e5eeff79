"""The same `decompose` several times: how many runs give equal weights, with and without what was timed before.

python benchmarks/decomposition/repeated_decompose.py --weights resnet20_cifar10.safetensors --out \
    results/repeated_decompose.md
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

COMMAND = ("decompose", "builtin:cifar_resnet20", "--energy", "0.8", "--latency-rounds", "0", "-q")


def weights_of_runs(weights: str, runs: int, cache: str) -> tuple[Counter[str], float]:
    """(how often each weights file came out, mean seconds of a run)."""
    found: Counter[str] = Counter()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            out = Path(folder) / str(number)
            environment = {**os.environ, "COMPRESSKIT_CACHE": cache and str(Path(folder) / cache)}
            line = [sys.executable, "-m", "compresskit", *COMMAND, "--weights", weights, "-o", str(out)]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment)
            found[hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()[:12]] += 1
    return found, (time.perf_counter() - started) / runs


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [
        "# The same decomposition several times",
        "",
        f"`python benchmarks/decomposition/repeated_decompose.py --weights {Path(given.weights).name} "
        f"--runs {given.runs}`: runs of "
        f"`compresskit {' '.join(COMMAND)}`. torch {torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start.",
        "",
        "| times of this machine | runs | different weights | runs of the most frequent | mean seconds a run |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, cache in (("kept", "cache"), ("not kept", "")):
        found, seconds = weights_of_runs(given.weights, given.runs, cache)
        lines.append(f"| {name} | {given.runs} | {len(found)} | {max(found.values())} | {seconds:.1f} |")
        print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
