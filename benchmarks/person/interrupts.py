"""Ctrl-C in each phase of a command: how it ends, what it leaves, and whether --resume goes on.

    python benchmarks/person/interrupts.py prune quantize search distill --rows benchmarks/results/interrupts.md

A command runs once undisturbed with `--log-level debug`, which names its phases; then once a phase, interrupted when
the phase begins, and resumed. A row is written when its phase is done.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "compresskit"]
SHARED = ["--data", "digits", "--latency-rounds", "2", "-o", "out"]
COMMANDS = {
    "prune": ["--target-macs", "0.5", "--recover", "kd", "--epochs", "2"],
    "quantize": ["--scheme", "int4-weight"],
    "decompose": ["--target-macs", "0.5"],
    "search": ["--target-macs", "0.5", "--trials", "10"],
    "distill": ["--student-width", "0.5", "--epochs", "2"],
    "train": ["--epochs", "3", "--lr", "0.02"],
}
_BEGINS = " begins"


def default_interrupt() -> None:
    """A shell without job control starts background jobs that ignore Ctrl-C; the command must not inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def phases(words: list[str], folder: Path) -> list[str]:
    """Names of a command's phases, in the order in which they begin."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("phase ") and line.endswith(_BEGINS)]
    return list(dict.fromkeys(line.removeprefix("phase ").removesuffix(_BEGINS) for line in lines))


def row(technique: str, words: list[str], phase: str) -> str:
    """Interrupt a phase; the row of a Markdown table."""
    with tempfile.TemporaryDirectory() as name:
        folder, sent, lines = Path(name), 0.0, []
        process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                                   preexec_fn=default_interrupt)  # fmt: skip
        for line in process.stderr or ():
            lines.append(line)
            if not sent and line.startswith(f"phase {phase}{_BEGINS}"):
                time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                sent = time.monotonic()
        code, took = process.wait(), time.monotonic() - sent
        said = next((line for line in reversed(lines) if line.startswith("compresskit: interrupted")), "")
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        strange = sum(path.parts[0] != "out.steps" for path in files)
        resumed = subprocess.run([*words, "--resume"], cwd=folder, capture_output=True, text=True)
    traceback = any("Traceback" in line for line in lines)
    cells = [technique, phase, str(code), f"{took:.1f}", "yes" if "--resume" in said else "no"]
    cells += ["yes" if traceback else "no", str(len(files) - strange), str(strange), str(resumed.returncode)]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Append a row for each phase of each command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("techniques", nargs="+", choices=COMMANDS)
    parser.add_argument("--model", default="builtin:digits_cnn")
    parser.add_argument("--rows", type=Path, default=Path("interrupts.md"))
    given = parser.parse_args()
    model = str(Path(given.model).resolve()) if Path(given.model).exists() else given.model
    for technique in given.techniques:
        words = [*COMMAND, technique, model, *COMMANDS[technique], *SHARED, "--log-level", "debug"]
        with tempfile.TemporaryDirectory() as folder:
            found = phases(words, Path(folder))
        for phase in found:
            line = row(technique, words, phase)
            print(line, flush=True)
            with given.rows.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
