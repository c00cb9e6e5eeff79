"""What a call returns: the compressed module, its report, and the artifact that the command line would have written."""

from __future__ import annotations

import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ..artifact import artifact
from ..artifact.codecs.storage import decode_all
from ..artifact.disk import files, ownership
from ..artifact.module_state import state_of
from ..artifact.origin import save_module
from ..core.costs import cost_of, names
from ..core.errors import CompresskitError, InputError
from ..core.reporting.report import report_fragment, rows_table, show_report
from ..core.reporting.report_figures import NOT_MEASURED, metric_text
from ..core.reporting.results import only_results_on_stdout
from ..model.checkpoints.weights import read_safetensors


class Result:
    """A model and what was measured of it.

    Attributes:
        model: an ordinary nn.Module in eval mode. It goes on with any training loop, and into any further call.
        report: what `--json` prints: original, steps with their measurements, facts, notes and tables.
    """

    model: nn.Module
    report: dict[str, Any]

    def __init__(self, model: nn.Module, report: dict[str, Any], folder: Path | None, *, temporary: Path | None = None):
        """Used by the functions of this package.

        Args:
            model: remembers where it came from (`artifact.origin.remember`).
            report: JSON-able.
            folder: the artifact on the disk; None where nothing was changed.
            temporary: a folder that goes when the result does.
        """
        self.model = model
        self.report = report
        self._folder = folder
        if temporary is not None:
            weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    def save(self, folder: str | Path, *, force: bool = False) -> int:
        """Write the model as an artifact, which `load` and every command take.

        A model that is as the call left it is written with its report, recipe and plots. One that was trained since is
        written without them, for they would not be true of it.

        Args:
            folder: the directory to create.
            force: replace an artifact that is there.
        Returns:
            Size of the weights file in bytes.
        Raises:
            InputError: if the folder exists, or the model was changed in other ways than by training.
        """
        if self._folder is None:
            raise InputError("nothing was changed, so there is nothing to save; compresskit.save writes any model")
        target = ownership.absolute(folder)
        if not self._is_as_written():
            with only_results_on_stdout():
                return save_module(self.model, target, force=force)
        if target != self._folder:
            with files.replacing(target, force=force) as staged:
                for entry in self._folder.iterdir():
                    if entry.is_file() and entry.name != ownership.MARKER:  # no bytecode of its source
                        shutil.copyfile(entry, staged / entry.name)
        return (target / artifact.WEIGHTS).stat().st_size

    def show(self) -> None:
        """Show the report: as a table in a notebook, else on stdout."""
        display = _notebook_display()
        if display is not None:
            display(self)
            return
        console = Console(file=sys.stdout, emoji=False, width=None if sys.stdout.isatty() else 160)
        if "original" in self.report:
            show_report(self.report, console)
            return
        for title, rows in self.report.get("tables", {}).items():
            console.print(rows_table(title, rows))
        for note in self.report.get("notes", []):
            console.print(note, highlight=False, soft_wrap=True, markup=False)

    def _repr_html_(self) -> str | None:
        return report_fragment(self.report) if "original" in self.report else None

    def __repr__(self) -> str:
        if "original" not in self.report:
            return f"<Result of {type(self.model).__name__}: nothing was changed>"
        before = self.report["original"]
        after = self.report["steps"][-1]["measurement"]
        counted = [cost_of(name).figure for name in names("exact") if not cost_of(name).modelled]
        figures = [f"{figure} {before[figure]:,} to {after[figure]:,}" for figure in counted]
        if after["metric"]:
            figures.append(f"{after['metric']['name']} {metric_text(after['metric'])}")
        (timed,) = (after[cost_of(name).figure] for name in names("timed"))
        speed = f"{timed['speedup']:.2f}x" if timed else NOT_MEASURED
        return f"<Result of {type(self.model).__name__}: {', '.join(figures)}, speed-up {speed}>"

    def _is_as_written(self) -> bool:
        """Whether the artifact on the disk still holds what the module does."""
        assert self._folder is not None
        try:
            written = decode_all(read_safetensors(self._folder / artifact.WEIGHTS))
        except (CompresskitError, OSError):  # it was moved or deleted
            return False
        held = state_of(self.model).tensors
        return held.keys() == written.keys() and all(_same(held[name], written[name]) for name in held)


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(*(one.contiguous().reshape(-1).view(torch.uint8) for one in (first, second)))


def _notebook_display() -> Any:
    """IPython's display, where this runs in a notebook."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    if type(running).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import display

    return display
