"""How long `compresskit --help` takes against importing click and rich: prints the ratio of medians.

python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "compresskit --help": [sys.executable, "-m", "compresskit", "--help"],
    "import click, rich": [sys.executable, "-c", "import click, rich"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run both commands in turn and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for command in COMMANDS.values():
        seconds(command)
    times = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name}: {value * 1e3:.0f} ms")
    ours, theirs = medians.values()
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    print(f"ratio {ours / theirs:.2f} (pairwise {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
