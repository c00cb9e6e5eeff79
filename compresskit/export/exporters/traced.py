"""The program of a model as export's options ask for it: dynamic dimensions, masks, keys and values of past tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ...core.errors import InputError
from ...core.tensors.dtypes import cast, copy_in
from ...core.types import Inputs, Loaded
from ...data.dataset import Data
from ...model.example_inputs import with_batch
from ...model.exported import exported_program
from ..handover.description import preprocessing_of
from ..options import ExportOptions
from .dynamic_axes import Axes, fixes_batch, free_axes, second_size, with_mask
from .export_program import AXES, export_program
from .preprocessed import Preprocessed, in_bytes
from .with_past import WithPast, completed, past_axes, past_example


@dataclass(frozen=True)
class Traced:
    """A program and how to call it.

    Attributes:
        program: the program.
        module: what it was traced from: the model, or the model in a wrapper.
        example: inputs that it takes.
        second: inputs to compare on as well: of other sizes in every dimension that the options name, or with past
            tokens; None where they name none.
    """

    program: torch.export.ExportedProgram
    module: nn.Module
    example: Inputs
    second: Inputs | None

    def inputs(self, inputs: Inputs) -> Inputs:
        """What the program takes for inputs of the model."""
        if isinstance(self.module, Preprocessed):
            return self.module.as_bytes(inputs)
        return completed(inputs, self.example)


def traced(loaded: Loaded, options: ExportOptions, data: Data | None = None) -> Traced:
    """Trace a model.

    Args:
        loaded: the model.
        options: dynamic dimensions, past tokens, preprocessing.
        data: what is done to its images, where preprocessing is part of the graph; else the model's own counts.
    Raises:
        InputError: if torch.export cannot, or the model does not leave a named dimension free.
    """
    module, example = loaded.module, loaded.example
    if options.with_past:
        example = past_example(module, example)
        module, axes = WithPast.of(module, list(example)), past_axes(example)
        program = export_program(module, example, axes)
        _check_free(program, axes)
        return Traced(program, module, example, example)
    if options.preprocess == "inside":
        return _of_bytes(loaded, options, data)
    batch = options.fixed_batch()
    if batch is None and exported_program(module) is None and fixes_batch(module, example):
        if "dynamic" in options.model_fields_set and options.dynamic:
            raise InputError(
                "dynamic: the model returns an entry an image, of which a graph has one number; leave it out"
            )
        batch = options.batch_size
    if batch:
        example = with_batch(example, batch)
        return Traced(export_program(module, example, [{} for _ in tree_leaves(example)]), module, example, None)
    if "dynamic" not in options.model_fields_set or exported_program(module) is not None:
        if "dynamic" in options.model_fields_set:
            raise InputError("dynamic: an exported program keeps the sizes it was exported for; export its factory")
        return Traced(export_program(module, example), module, example, None)
    if "length" in options.dynamic:
        example = with_mask(module, example)
    axes = free_axes(module, example, options.dynamic)
    second = second_size(module, example, axes) if options.dynamic else None
    batch = 2 if "batch" in options.dynamic else options.batch_size
    program = export_program(module, with_batch(example, batch), axes)
    _check_free(program, axes)
    return Traced(program, module, example, second)


def _of_bytes(loaded: Loaded, options: ExportOptions, data: Data | None) -> Traced:
    """The model behind its preprocessing."""
    if exported_program(loaded.module) is not None:
        raise InputError("preprocess 'inside': an exported program stays as it is; export its factory")
    module, example = copy_in(loaded.module, torch.float32), cast(loaded.example, torch.float32)
    keyword = next(iter(example)) if isinstance(example, Mapping) else ""
    wrapper = Preprocessed(module, preprocessing_of(loaded, data), keyword).eval()
    named = "dynamic" in options.model_fields_set
    axes = free_axes(module, example, options.dynamic) if named else [{0: "batch"}]
    second = wrapper.as_bytes(second_size(module, example, axes)) if named and options.dynamic else None
    batch = 2 if "batch" in options.dynamic else options.batch_size
    axes = in_bytes(axes)
    program = export_program(wrapper, wrapper.as_bytes(with_batch(example, batch)), axes)
    if named:
        _check_free(program, axes)
    return Traced(program, wrapper, wrapper.as_bytes(example), second)


def _check_free(program: torch.export.ExportedProgram, axes: list[Axes]) -> None:
    """Refuse a program that fixes a dimension that was to be free."""
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for name in names:
        node = nodes[str(name)]
        for axis, dimension in node.meta.get(AXES, {}).items():
            size = node.meta["val"].shape[axis]
            if str(size).isdigit():  # also a symbol that a branch of forward decided
                raise InputError(
                    f"dynamic {dimension!r}: forward fixes it at {size} (dimension {axis} of {name}), because it "
                    "computes with the number itself; leave it out of --dynamic"
                )
