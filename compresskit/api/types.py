"""Types of the public functions, for readers and type checkers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from .result import Result

#: a model string or artifact directory, a module in memory, or what an earlier call returned
Model = str | os.PathLike[str] | nn.Module | Result
#: inputs of a forward: one tensor, positional ones, or keyword ones
Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
#: a data string, a loader, a data set, a pair (inputs, targets), (train, test), (train, val, test), batches, a factory
Data = (
    str
    | DataLoader[Any]
    | Dataset[Any]
    | tuple[Any, ...]
    | Mapping[str, Any]
    | Iterable[Any]
    | Callable[..., Any]
    | None
)
#: "rich" prints lines on stderr; a function gets each line; None is silent
Progress = Literal["rich"] | Callable[[str], None] | None
