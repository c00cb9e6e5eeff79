"""A run's place on the disk: its output, the finished steps beside it, and one run at a time on both."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifact import artifact
from ...artifact.disk import files, locks, ownership
from ...core import distributed
from ...core.errors import CompresskitError, InputError
from ...model.checkpoints.weights import sha256_of

_WORK = ".work"
_OWN_STEP = re.compile(r"\d+-[\w-]+(\.work|\.missed)?|\.\d+-[\w-]+(\.missed)?\.([0-9a-f]{8}\.compresskit|lock)")


@dataclass(frozen=True)
class Workspace:
    """The places that one run may write to.

    Attributes:
        output: absolute path of the final artifact.
        force: replace an output that this tool wrote, and finished steps of an earlier run.
        resume: go on with finished steps.
        inputs: files and folders that the run reads, which are never inside of what it replaces.
    """

    output: Path
    force: bool = False
    resume: bool = False
    inputs: tuple[Path, ...] = ()

    @property
    def steps(self) -> Path:
        """Where finished steps are kept."""
        return self.output.with_name(self.output.name + ".steps")

    def step(self, number: int, technique: str) -> Path:
        """Where one finished step is kept."""
        return self.steps / f"{number}-{technique}"

    def work(self, place: Path, key: str) -> Path:
        """The folder for what a step keeps across a kill (checkpoints, caches), made if it is not there."""
        folder = place.with_name(place.name + _WORK) / key[:12]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs away from the output, clear away what killed ones left, and leave nothing of our own.

        Raises:
            InputError: if another run holds the output, or it cannot be written.
        """
        if not distributed.is_main():  # the other processes of a torchrun belong to the main one's run
            yield
            return
        with locks.in_folder(self.output), locks.locked(self.output):
            files.sweep(self.output)
            files.sweep(self.steps)
            try:
                yield
            finally:
                self._tidy()

    def check(self, key: str, log: Callable[[str], None]) -> dict[str, Any] | None:
        """Refuse what must not be replaced; find out whether there is anything left to do.

        Args:
            key: of the last step.
            log: prints a line of progress.
        Returns:
            the report of an output that a resumed run had already finished, else None.
        Raises:
            InputError: if something stands in the output's or the steps' place that may not be replaced.
        """
        steps_are_ours = self._check_steps()
        if not (self.force or self.resume):
            ownership.refuse_existing(self.output)
        if not os.path.lexists(self.output):
            return None
        shown = f"output {str(self.output)!r}"
        if self.resume:
            report = finished_report(self.output, key)
            if report is not None:
                log(f"{self.output.name}: unchanged, nothing to do")
                return report
            if not (self.force or steps_are_ours):
                raise InputError(
                    f"{shown} exists and no finished steps lie beside it, so that it is not this run's; "
                    "give --force to replace it"
                )
        ownership.check_replaceable(self.output, self.inputs)
        return None

    def _check_steps(self) -> bool:
        """Whether finished steps of ours are there; what is not ours is refused."""
        steps = self.steps
        if not os.path.lexists(steps) or not distributed.is_main():
            return os.path.lexists(steps)
        shown = f"{str(steps)!r}, where finished steps are kept,"
        if steps.is_symlink() or not steps.is_dir() or ownership.read_marker(steps) != self.output.name:
            if steps.is_dir() and not steps.is_symlink() and not any(steps.iterdir()):
                return False
            raise InputError(f"{shown} was not written by compresskit for this output; move it away")
        ownership.check_replaceable(steps, self.inputs)
        ownership.refuse_foreign(shown.rstrip(","), self._foreign_in_steps())
        if not (self.force or self.resume):
            raise InputError(f"{shown} holds an unfinished run; --resume goes on with it, --force starts anew")
        return True

    def _foreign_in_steps(self) -> list[str]:
        """What lies among the finished steps and is not ours, by its path there."""
        foreign = []
        for entry in sorted(self.steps.iterdir()):
            if entry.name == ownership.MARKER or (_OWN_STEP.fullmatch(entry.name) and entry.is_dir()):
                inside = ownership.foreign_entries(entry) if ownership.is_artifact(entry) else []
                foreign += [f"{entry.name}/{name}" for name in inside]
            else:
                foreign.append(entry.name)
        return foreign

    def begin(self) -> None:
        """Make the folder of finished steps; those of an earlier run stay only for a resume."""
        if not distributed.is_main():
            return
        if not self.resume and self.steps.exists():
            files.remove_own(self.steps)
        self.steps.mkdir(exist_ok=True)
        ownership.write_marker(self.steps, self.output)

    def finish(self, *, keep_steps: bool) -> None:
        """Delete what only a resume would have needed: scratch folders, and finished steps unless they are kept.

        Where somebody put files of their own meanwhile, all stays.
        """
        if self._foreign_in_steps():
            return
        if not keep_steps:
            files.remove_own(self.steps)
            return
        for place in self.steps.iterdir():
            if place.name.endswith(_WORK):
                remove_tree(place)
            else:
                files.sweep(place)

    def _tidy(self) -> None:
        """Remove folders that a run made and then put nothing into."""
        if ownership.read_marker(self.steps) != self.output.name:
            return
        for root, _, _ in os.walk(self.steps, topdown=False):
            if Path(root) != self.steps:
                with suppress(OSError):  # not empty
                    Path(root).rmdir()
        if [entry.name for entry in self.steps.iterdir()] == [ownership.MARKER]:
            files.remove_own(self.steps)


def remove_tree(folder: Path) -> None:
    """Delete a folder inside one of ours."""
    shutil.rmtree(folder, ignore_errors=True)


def finished_report(folder: Path, key: str) -> dict[str, Any] | None:
    """The report of a whole, undamaged artifact that was made under a key; None of any other."""
    try:
        manifest = artifact.read_manifest(folder)
        if manifest["provenance"].get("key") != key:
            return None
        if sha256_of(folder / artifact.WEIGHTS) != manifest["weights_sha256"]:
            return None
        report = artifact.read_report(folder)
    except (CompresskitError, OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return report if isinstance(report, dict) else None
