"""What a terminal of 80 and of 120 columns shows of a step while it works, and at its end, as text.

    python benchmarks/person/screens.py > benchmarks/results/screens.md
    python benchmarks/person/screens.py --at 0.7 prune MODEL --data DATA --target-macs 0.5

The command runs in a pseudo-terminal with NO_COLOR; what it writes is put on a screen that knows the few movements of
the cursor that progress bars use. The screen is taken when the named share of the last bar's work is done.
"""

from __future__ import annotations

import argparse
import os
import platform
import pty
import re
import struct
import sys
from fcntl import ioctl
from termios import TIOCSWINSZ

STEP = [
    "prune", "builtin:digits_cnn", "--data", "digits", "--target-macs", "0.5", "--recover", "kd", "--epochs", "3",
    "--latency-rounds", "2",
]  # fmt: skip
_TOKEN = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|\x1b.")
_PROGRESS = re.compile(r"(\d+) of (\d+),")


class Screen:
    """Lines without end, and a cursor."""

    def __init__(self, columns: int) -> None:
        self.columns, self.lines, self.row, self.column = columns, [""], 0, 0

    def write(self, text: str) -> None:
        """Put what a program wrote; lines that are longer than the screen go on in the next one."""
        for values, command, control, plain in _TOKEN.findall(text):
            if command:
                self._move(int(values) if values.isdigit() else 0, command)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self._down()
            for character in plain:
                if self.column == self.columns:
                    self._down()
                    self.column = 0
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
                self.column += 1

    def _down(self) -> None:
        self.row += 1
        self.lines += [""] * (self.row - len(self.lines) + 1)

    def _move(self, value: int, command: str) -> None:
        if command == "A":
            self.row = max(0, self.row - max(value, 1))
        elif command == "K":  # 2: the whole line, else from the cursor on
            self.lines[self.row] = "" if value == 2 else self.lines[self.row][: self.column]
        elif command == "J":
            self.lines = [*self.lines[: self.row], self.lines[self.row][: self.column]]

    def text(self) -> str:
        """All lines, without what stands empty at their ends."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip()


def shown(command: list[str], columns: int, at: float) -> tuple[str, str]:
    """The screen of a command while it works, and at its end.

    Args:
        command: arguments of compresskit.
        columns: of the terminal.
        at: share of the work of a bar from which on the first screen is taken; the last bar that gets there counts.
    """
    process, terminal = pty.fork()
    if process == 0:
        environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
        os.execve(sys.executable, [sys.executable, "-m", "compresskit", *command], environment)
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    screen, working, taken, rest = Screen(columns), "", "", b""
    while True:
        try:
            rest += os.read(terminal, 65536)
        except OSError:  # its end
            break
        text = rest.decode(errors="ignore")
        rest = b"" if text.encode() == rest else rest[len(text.encode()) :]
        screen.write(text)
        found = _PROGRESS.findall(screen.text())
        share = int(found[-1][0]) / max(int(found[-1][1]), 1) if found else 0.0
        if share < at:
            working = ""
        elif not working:
            working = taken = screen.text()
    os.waitpid(process, 0)
    return taken, screen.text()


def main() -> None:
    """Print the screens as a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--at", type=float, default=0.5)
    parser.add_argument("--output", default="/tmp/compresskit-screens", help="where the command writes its artifact")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    command = given.command or STEP
    print("# Screens of a step, and of its end\n")
    print(f"`python benchmarks/person/screens.py`: `compresskit {' '.join(command)}`")
    print("in a pseudo-terminal, with NO_COLOR, on")
    print(f"{platform.platform()}, Python {platform.python_version()}, a machine that others share.")
    for columns in (80, 120):
        working, end = shown([*command, "--force", "-o", given.output], columns, given.at)
        print(f"\n## {columns} columns, while it works\n\n```\n{working}\n```")
        print(f"\n## {columns} columns, at its end\n\n```\n{end}\n```", flush=True)


if __name__ == "__main__":
    main()
