"""How long commands take against importing what they cannot do without: prints medians and ratios.

python benchmarks/house/startup.py [--rounds 15] [--against CHECKOUT]

With a checkout, each command also runs on it in turn, for the same figures of another state.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PRUNE = ["prune", "builtin:digits_cnn", "--data", "digits", "--target-macs", "0.5", "--latency-rounds", "2", "-f"]
#: arguments, and the imports that nobody can do without
PAIRS = {
    "--help": (["--help"], "click, rich"),
    "inspect": (["inspect", "builtin:digits_cnn"], "torch"),
    "prune": ([*_PRUNE, "-o", "out"], "torch"),
}


def seconds(command: list[str], folder: str, checkout: str) -> tuple[float, float]:
    """(wall, processor) seconds of one run of a command."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": checkout}
    subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=folder, env=environment)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def main() -> None:
    """Run all commands in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--against", help="another checkout of compresskit")
    options = parser.parse_args()
    here = str(Path(__file__).resolve().parents[2])
    checkouts = {"": here} | ({" (against)": str(Path(options.against).resolve())} if options.against else {})
    print("| command | wall, ms | processor, ms | to the imports |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (arguments, imports) in PAIRS.items():
            runs = {f"import {imports}": (["-c", f"import {imports}"], here)}
            runs |= {f"{name}{which}": (["-m", "compresskit", *arguments], path) for which, path in checkouts.items()}
            times: dict[str, list[tuple[float, float]]] = {run: [] for run in runs}
            for number in range(options.rounds + 1):
                for run, (command, checkout) in runs.items():
                    taken = seconds(command, folder, checkout)
                    if number:  # the first fills the caches of the disk
                        times[run].append(taken)
            medians = {run: [statistics.median(part) for part in zip(*of, strict=True)] for run, of in times.items()}
            least = medians[f"import {imports}"]
            for run, (wall, processor) in medians.items():
                print(f"| {run} | {wall * 1e3:.0f} | {processor * 1e3:.0f} | {wall / least[0]:.2f}x |", flush=True)


if __name__ == "__main__":
    main()
