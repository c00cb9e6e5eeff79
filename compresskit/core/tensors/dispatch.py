"""The mode that watches operations of eager code."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class EagerMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of the base, when this class is made
    """A dispatch mode for code that is not being compiled; torch's own imports its compiler, 2 s, to keep it out."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
