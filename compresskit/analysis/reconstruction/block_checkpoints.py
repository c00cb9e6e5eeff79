"""What was tuned in the blocks that are done, one file for each, so that a killed run goes on at the next block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...training.checkpoints import checkpoint
from .fitting import Group, Outcome


@dataclass(frozen=True)
class BlockCheckpoints:
    """Files of one reconstruction.

    Attributes:
        folder: where they are; None keeps none.
        key: of the model and the way it is reconstructed; other files in the folder are another reconstruction's.
        generator: draws the order of batches; goes on as if the run had not been killed, like torch's own.
    """

    folder: Path | None
    key: str
    generator: torch.Generator

    @classmethod
    def of(
        cls, folder: Path | None, changed: nn.Module, record: dict[str, object], generator: torch.Generator
    ) -> BlockCheckpoints:
        """Those of a changed model that is to be reconstructed in a way that a record describes."""
        key = checkpoint.fingerprint(record, changed.state_dict()) if folder is not None else ""
        return cls(folder, key, generator)

    def restore(self, block: str, groups: Sequence[Group]) -> Outcome | None:
        """Put a block's tuned tensors back where a run before this one has got past it; None where none has."""
        path = self._path(block)
        if path is None or not path.is_file():
            return None
        tensors, record = checkpoint.read(path)
        with torch.no_grad():
            for number, tensor in enumerate(_tensors(groups)):
                tensor.copy_(tensors[str(number)])
        self.generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["torch"])
        return Outcome(**record)

    def save(self, block: str, groups: Sequence[Group], outcome: Outcome) -> None:
        """Keep what was tuned in a block."""
        if (path := self._path(block)) is None:
            return
        tensors = {str(number): tensor for number, tensor in enumerate(_tensors(groups))}
        states = {"generator": self.generator.get_state(), "torch": torch.get_rng_state()}
        checkpoint.write(path, {**tensors, **states}, asdict(outcome))

    def _path(self, block: str) -> Path | None:
        """A block's file; its name is not used, because it may hold any character."""
        if self.folder is None:
            return None
        return self.folder / f"reconstruction-{self.key}-{checkpoint.fingerprint({'block': block}, {})}.safetensors"


def _tensors(groups: Sequence[Group]) -> list[Tensor]:
    return [tensor for group in groups for tensor in group.tensors]
