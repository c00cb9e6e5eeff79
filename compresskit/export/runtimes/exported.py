"""What a runtime is handed, and a module of one forward, so that metrics and timers treat it like any model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...core.tensors.batches import count_examples, join, map_tensors, pick, tensors_of
from ...core.tensors.dtypes import cast
from ...core.types import Inputs
from ..exporters.output_names import restored
from ..exporters.with_past import completed


@dataclass(frozen=True)
class Exported:
    """What was written, and what it was made from.

    Attributes:
        module: the quantized model itself; None where there is nothing but the file.
        program: its exported program; None where the format is written without one.
        path: the file or folder.
        example: inputs of the batch size that will be run.
        threads: threads to use.
    """

    module: nn.Module | None
    program: torch.export.ExportedProgram | None
    path: Path
    example: Inputs
    threads: int


@dataclass(frozen=True)
class InputSpec:
    """An input of a file.

    Attributes:
        name: as the file has it.
        shape: None stands for a size that is free.
        dtype: of its elements.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype


class Runner(nn.Module):
    """A function from inputs to outputs, as a module.

    Args:
        run: the function.
        session: the runtime's own, where it has one.
        specs: the file's inputs, where the runtime says them.
        about: what the file says of itself, as texts of JSON.
    """

    def __init__(
        self,
        run: Callable[[Inputs], Any],
        session: Any = None,
        specs: tuple[InputSpec, ...] = (),
        about: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self._run = run
        self.session = session
        self.specs = specs
        self._about = dict(about or {})

    @property
    def about(self) -> dict[str, Any]:
        """What the file says of itself: preprocessing, labels and so on; a text that is no JSON stays one."""
        found: dict[str, Any] = {}
        for key, text in self._about.items():
            try:
                found[key] = json.loads(text)
            except ValueError:
                found[key] = text
        return found

    def tell(self, about: Mapping[str, Any]) -> None:
        """What the file says of itself, where the runtime does not read it."""
        self._about.update({key: json.dumps(value) for key, value in about.items()})

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self._run(kwargs if kwargs else args)

    def in_batches(self, example: Inputs | None = None) -> Runner:
        """The same for any number of examples, where the file takes one batch size alone.

        Examples go through in batches of that size; the last batch is filled up with its first example, whose further
        outputs are dropped.

        Args:
            example: inputs of that size; where they hold a list of images, it says how many.
        """
        sizes = {spec.shape[0] for spec in self.specs if spec.shape}
        listed = isinstance(example, tuple) and len(example) == 1 and isinstance(example[0], list)
        size = count_examples(example) if listed else next(iter(sizes)) if len(sizes) == 1 else None
        if size is None:
            return self
        run = self._run

        def parts(inputs: Inputs) -> Any:
            count = count_examples(inputs)
            if count == size:
                return run(inputs)
            outputs = []
            for start in range(0, count, size):
                taken = torch.arange(start, start + size)
                taken[taken >= count] = start
                found, kept = run(pick(inputs, taken)), torch.arange(min(size, count - start))
                an_entry_each = isinstance(found, list) and len(found) == size
                outputs.append(pick(found, kept) if an_entry_each else map_tensors(found, partial(_rows, rows=kept)))
            if all(isinstance(found, list) for found in outputs) and count == sum(map(len, outputs)):
                return join(outputs)
            return pytree.tree_map(_joined, *outputs)

        return Runner(parts, self.session, self.specs, self._about)


def _joined(*parts: Any) -> Any:
    """Rows of all batches; what is no tensor (a loss that is None) is that of the first."""
    return torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]


def _rows(tensor: Tensor, *, rows: Tensor) -> Tensor:
    return tensor[rows]


def in_order(inputs: Inputs, names: list[str], example: Inputs | None = None) -> list[Tensor]:
    """Contiguous input tensors in the graph's order; graphs read floats in float32.

    Args:
        inputs: a batch.
        names: of the graph's inputs.
        example: of all that the graph reads; masks and past tokens that a batch lacks are filled in.
    """
    inputs = cast(inputs if example is None else completed(inputs, example), torch.float32)
    if isinstance(inputs, Mapping) and all(isinstance(value, Tensor) for value in inputs.values()):
        # the writer renames an input that is an output, too
        renamed = set(inputs) != set(names) and len(inputs) == len(names)
        tensors = list(inputs.values()) if renamed else [inputs[name] for name in names if name in inputs]
    else:
        tensors = tensors_of(inputs)
    return [tensor.detach().cpu().contiguous() for tensor in tensors]


def as_outputs(exported: Exported, arrays: Sequence[Any]) -> Any:
    """NumPy arrays that a runtime returned, as tensors in the structure in which the model returns them."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if exported.program is not None:
        return restored(exported.program, tensors)
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
