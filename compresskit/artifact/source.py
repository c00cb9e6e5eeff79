"""Model strings: from `torchvision:resnet18` or an artifact directory to a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.errors import ForwardError, InputError
from ..core.tensors.dtypes import model_dtype
from ..core.types import Inputs, Loaded, or_later
from ..core.user_code.in_memory import find, is_in_memory
from ..model import example_inputs
from ..model.builders import WITHOUT_WEIGHTS, build_with_defaults, parse, seeded
from ..model.checkpoints.weights import check_module, fits, load_into, read_weights
from ..model.exported import is_exported_source, load_exported
from ..model.forward_check import check_forward, check_state, data_remedy
from ..model.libraries.companions import companions
from ..model.plain_weights import fold_checked
from ..model.strings import folder_of, is_exported
from ..model.wrappers import materialize
from . import artifact


def load_model(
    string: str,
    *,
    weights: str | None = None,
    model_args: dict[str, Any] | None = None,
    inputs: list[str] | None = None,
    example: Inputs | None = None,
    trust_source: bool = False,
    source: str | None = None,
    module: nn.Module | None = None,
    seed: int = 0,
) -> Loaded:
    """Build and load the model that a string names.

    Args:
        string: one of `strings.FORMS`.
        weights: a weights file, "pretrained" (the library's own weights), or None for the form's default; an artifact
            takes a file too, of tensors with the names and shapes that it has after its edits.
        model_args: keyword arguments of the factory.
        inputs: example inputs, `[NAME=]D,D,...[:DTYPE[:HIGH]]` without the batch dimension.
        example: the same as tensors, of any batch size; of a model that is built here, in the place of `inputs`.
        trust_source: let an artifact run the user code it names, or read a .pt2 file.
        source: user code named again, which an artifact made from user code may then run.
        module: a module in memory that an artifact's edits are replayed on, in the place of what its source builds.
        seed: seeds the random initialization where no weights are given.
    Raises:
        InputError: naming what is wrong and the nearest valid name.
    """
    if is_in_memory(string):
        _refuse(string, "a module in memory", weights=weights, model_args=model_args, inputs=inputs)
        return _in_memory(string)
    if (folder := folder_of(string)) is not None:
        _refuse(string, "an artifact directory", model_args=model_args, inputs=inputs)
        loaded = artifact.load(folder, trust_source=trust_source, source=source, module=module)
        if weights:
            _load_trained(loaded, weights, string)
        return loaded
    if module is not None:
        raise InputError(f"model {string!r} is no artifact directory, whose edits a module in memory could take")
    if is_exported(string):
        _refuse(string, "a .pt2 file", weights=weights, model_args=model_args)
        return load_exported(Path(string), inputs, trust_source=trust_source)
    record = parse(string, model_args or {})
    with seeded(seed):
        built, defaults = build_with_defaults(record, pretrained=weights == "pretrained")
        artifact.note_named(record)
        check_state(built, f"model {string!r}")
        built.eval()
        given = None if example is None else example_inputs.with_batch(example, 1)
        example = example_inputs.parse(inputs) if inputs else given if given is not None else defaults["example"]
        edits = materialize(built, example, f"model {string!r}")
    notes: list[str] = []
    if weights and weights != "pretrained":
        tensors, where = read_weights(weights), f"weights {weights!r}"
        if not fits(built, tensors):  # a file in another form than the module's: both become plain
            folded, lines = fold_checked(built, example)
            edits, notes = edits + folded, notes + lines
        notes += load_into(built, tensors, where)
    folded, lines = fold_checked(built, example)
    check_module(built, f"model {string!r}")
    return Loaded(
        built,
        record,
        or_later(None if example is None else example_inputs.with_floating(example, model_dtype(built))),
        edits + folded,
        preprocessing=defaults["preprocessing"],
        name=string.rpartition(":")[2],
        notes=notes + lines,
        seed=seed,
        random_weights=not weights and record["kind"] in WITHOUT_WEIGHTS,
        companions=companions(Path(record["name"])) if record["kind"] == "hf" else {},
    )


def _load_trained(loaded: Loaded, weights: str, string: str) -> None:
    """Put weights that were trained elsewhere into an artifact's model."""
    if weights == "pretrained":
        raise InputError(f"model {string!r} is an artifact directory, which has no published weights; name a file")
    tensors = read_weights(weights)
    quantized = [
        f".{edit['target']}.{parameter}"
        for edit in loaded.edits
        if edit["op"] == "quantized"
        for parameter in edit.get("parameters", ())
    ]
    held = loaded.module.state_dict()
    for name in tensors:
        if name not in held and any(f".{name}".endswith(parameter) for parameter in quantized):
            raise InputError(
                f"weights {weights!r} hold a float {name}, and model {string!r} is quantized: its layers hold codes; "
                "give them to the artifact from before quantizing, and quantize that again"
            )
    loaded.notes += load_into(loaded.module, tensors, f"weights {weights!r}")


def _in_memory(string: str) -> Loaded:
    found = find(string)
    if not isinstance(found, Loaded):
        raise InputError(f"model {string!r} is a {type(found).__name__}, not a module")
    return found.clone()


def brings_example(string: str) -> bool:
    """Whether a model string names something saved together with its example input."""
    return folder_of(string) is not None or is_in_memory(string) or is_exported(string)


def _refuse(string: str, what: str, **given: Any) -> None:
    for name, value in given.items():
        if value:
            raise InputError(
                f"model {string!r} is {what}, which brings its own {name.replace('_', ' ')}; leave {name} out"
            )


def _is_resized(example: Any, data_example: Any) -> bool:
    """Whether two images differ in height and width alone."""
    images = isinstance(example, Tensor) and isinstance(data_example, Tensor) and example.dim() == 4
    return images and example.shape[:2] == data_example.shape[:2] and example.shape != data_example.shape


def with_example(loaded: Loaded, data_example: Inputs | None, *, asked: bool = False) -> Loaded:
    """The same model with an example input, that of the data where the model names none, or images of another size.

    Args:
        loaded: a model; its example is changed.
        data_example: inputs of one example of the data.
        asked: whether the user named the model's example, which then stays.
    Raises:
        InputError: if neither the model nor the data says what the input looks like, or the model does not run on it.
    """
    if data_example is not None and (
        loaded.example is None
        or not asked
        and _is_resized(loaded.example, data_example)
        and not is_exported_source(loaded.source)
    ):
        loaded.example = example_inputs.with_floating(data_example, model_dtype(loaded.module))
        try:
            return check_forward(loaded)
        except ForwardError as error:
            raise ForwardError(f"{error}{data_remedy(loaded.module, data_example)}") from error
    if loaded.example is None:
        raise InputError(f"model {loaded.name!r}: its input shape is unknown; give --input, e.g. --input 3,224,224")
    return check_forward(loaded)
