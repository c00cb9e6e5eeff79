"""Hostile inputs by the thousand: what each kind ends with, how long it takes, how much memory.

python benchmarks/house/fuzz.py --tries 200
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.fuzz import execution, hostile  # noqa: E402


def main() -> None:
    """Run the tries and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=200, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--kinds", nargs="*", default=list(hostile.KINDS))
    parser.add_argument("--out", type=Path, help="Markdown file to write, e.g. benchmarks/results/fuzz.md")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        good = hostile.prepare(Path(folder) / "good")
        for kind in options.kinds:
            rows.append(_many(kind, options, good, Path(folder) / "try", failures))
            print(rows[-1], file=sys.stderr, flush=True)
    text = _table(rows, options) + "".join(f"\n- `{failure}`" for failure in failures) + ("\n" if failures else "")
    print(text)
    if options.out:
        options.out.write_text(text)
    sys.exit(1 if failures else 0)


def _many(kind: str, options: argparse.Namespace, good: Path, scratch: Path, failures: list[str]) -> dict:
    codes: Counter[int] = Counter()
    slowest, largest = 0.0, 0
    for number in range(options.first, options.first + options.tries):
        arguments, outcome = hostile.attempt(kind, number, good, scratch)
        codes[outcome.code] += 1
        if outcome.code == 2:
            slowest = max(slowest, outcome.seconds)
            largest = max(largest, outcome.peak_bytes or 0)
        problem = hostile.problem(outcome)
        if problem:
            failures.append(f"{kind} {number}: {problem}: {arguments} {outcome.lines[:2]}")
            print(failures[-1][:400], file=sys.stderr, flush=True)
    return {
        "kind": kind,
        "tries": sum(codes.values()),
        "rc 0": codes[0],
        "rc 2": codes[2],
        "rc 3": codes[3],
        "rc 1": codes[1],
        "cut off": codes[-1],
        "other": sum(count for code, count in codes.items() if code not in (-1, 0, 1, 2, 3)),
        "slowest refusal, CPU s": f"{slowest:.2f}",
        "largest growth, MiB": f"{largest / 2**20:.0f}",
    }


def _table(rows: list[dict], options: argparse.Namespace) -> str:
    import torch

    columns = list(rows[0])
    lines = [
        "# Hostile inputs",
        "",
        f"`python benchmarks/house/fuzz.py --tries {options.tries} --first {options.first}`, one process, one thread, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()} {platform.system()}. "
        "Every try is decided by its kind and number (`tests/fuzz/hostile.py`). The slowest and the largest are those "
        "of refused inputs (rc 2); growth is of resident memory during one try. A try is cut off after "
        f"{execution.LONGEST_S} s. What ended otherwise than in 0, 2 or 3 is listed below the table.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows),
    ]
    total = {column: sum(row[column] for row in rows) for column in columns if isinstance(rows[0][column], int)}
    lines.append("| total | " + " | ".join(str(total.get(column, "")) for column in columns[1:]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
