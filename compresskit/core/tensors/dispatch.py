"""Watching operations where they reach a kernel."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class OperationMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The base of modes that see every operation, without torch's compiler.

    Torch has its compiler skip the method that a mode is called by, and loads it for that at the first operation,
    which takes as long as `import torch`. What is watched here runs as it is written, so there is nothing to skip.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
