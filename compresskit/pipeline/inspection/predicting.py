"""A model run on files: classes by name, values, or what else it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, described
from ...core.types import Inputs, Loaded, call, main_output, to_device
from ...export.handover.description import labels_of
from ...export.handover.label_file import read_labels
from ...export.opening import is_file
from ..opening import pick_device
from ..recipe import RecipeOptions
from .bench_options import PredictOptions
from .evaluating import open_any
from .prediction_inputs import Reader, files_of, reader_of

_MOST_VALUES = 64  # of one output that a row shows
_SHOWN_VALUES = 8


def predict(
    inputs: Sequence[str],
    recipe: RecipeOptions,
    options: PredictOptions,
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Run a model on files.

    Args:
        inputs: files and folders of what the model takes: images, .npy arrays of one example or several, .wav sounds,
            texts (.txt, an example a line; or the text itself).
        recipe: names the model.
        options: how many classes to show, their names.
        log: prints a line of progress.
    Returns:
        a record for each example: input; top, a list of {index, label, score}, of classes (scores sum to 1 over all of
        them); else shape and values, as many as fit.
    Raises:
        InputError: if the model does not open, an input is missing or is not what the model takes.
    """
    paths = list(files_of(inputs))
    loaded = open_any(recipe, options.runtime)
    if loaded.example is None:
        raise InputError(f"model {loaded.name!r}: its input shape is unknown; give --input, e.g. --input 3,224,224")
    device = pick_device("cpu" if is_file(recipe.model) else recipe.device)
    loaded.module.to(device)
    names = _names(loaded, options)
    reader = reader_of(loaded, recipe.model)
    for note in reader.notes:
        log(note)
    found: list[dict[str, Any]] = []
    for labels, batch in _batches(reader, paths, options.batch_size):
        outputs = _run(loaded, batch, device)
        for place, label in enumerate(labels):
            found.append({"input": label, **_record(outputs, place, len(labels), names, options.top, reader)})
    return found


def _batches(reader: Reader, paths: Sequence[str], size: int) -> Iterator[tuple[list[str], Inputs]]:
    """Examples in batches of one shape."""
    waiting: list[tuple[str, Any]] = []
    for path in paths:
        for label, example in reader.read(path):
            if waiting and (len(waiting) == size or not reader.alike(waiting[0][1], example)):
                yield [one for one, _ in waiting], reader.batch([one for _, one in waiting])
                waiting = []
            waiting.append((label, example))
    if waiting:
        yield [one for one, _ in waiting], reader.batch([one for _, one in waiting])


@torch.no_grad()
def _run(loaded: Loaded, batch: Inputs, device: torch.device) -> Any:
    try:
        return call(loaded.module.eval(), to_device(batch, device))
    except InputError:
        raise
    except Exception as error:  # the model's own code
        raise InputError(f"model {loaded.name!r} does not run on these inputs: {described(error)[:300]}") from error


def _record(outputs: Any, place: int, count: int, names: list[str], top: int, reader: Reader) -> dict[str, Any]:
    if isinstance(outputs, list) and len(outputs) == count and isinstance(outputs[place], dict):  # boxes of an image
        return {name: one.tolist() for name, one in outputs[place].items() if isinstance(one, Tensor)}
    try:
        output = main_output(outputs)[place].float().cpu()
    except (TypeError, IndexError) as error:
        raise InputError(f"the model's output is no batch of {count} examples: {described(error)}") from error
    if output.dim() == 2 and reader.generates:  # the next token
        output = output[-1]
    if output.dim() == 1 and len(output) > 1:
        return {"top": _top(output, names, top, reader)}
    if output.dim() == 3 and len(output) > 1:  # classes of pixels
        shares = torch.bincount(output.argmax(0).reshape(-1), minlength=len(output)) / output[0].numel()
        return {"shares": [one for one in _classes(shares, names, top) if one["score"]]}
    return {"shape": list(output.shape), "values": output.reshape(-1)[:_MOST_VALUES].tolist()}


def _top(output: Tensor, names: list[str], top: int, reader: Reader) -> list[dict[str, Any]]:
    is_share = bool((output >= 0).all()) and abs(float(output.sum()) - 1) < 1e-3
    found = _classes(output if is_share else output.softmax(0), names, top)
    if reader.generates and reader.decode is not None:
        return [{**one, "label": reader.decode(one["index"])} for one in found]
    return found


def _classes(scores: Tensor, names: list[str], top: int) -> list[dict[str, Any]]:
    values, indices = scores.topk(min(top, len(scores)))
    return [
        {"index": index, "label": names[index] if index < len(names) else None, "score": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def _names(loaded: Loaded, options: PredictOptions) -> list[str]:
    """Names of classes: those of a file, else of the exported file or the model's configuration."""
    if options.labels is not None:
        return read_labels(options.labels)
    about = getattr(loaded.module, "about", {})
    labels = about.get("labels") if isinstance(about, dict) else None
    return [str(name) for name in labels] if isinstance(labels, list) else labels_of(loaded, None)


def _shown(label: str | None, index: int) -> str:
    """A class by its name; quoted where that has space at its ends or line ends, as tokens have."""
    if label is None:
        return str(index)
    return label if label and label == label.strip() and label.isprintable() else repr(label)


def predicted_line(record: dict[str, Any]) -> str:
    """A record as a line for people."""
    name = str(record["input"])
    classes = record.get("top") or record.get("shares")
    if classes:
        shown = [f"{_shown(one['label'], one['index'])} {one['score']:.1%}" for one in classes]
        return f"{name}: {', '.join(shown)}"
    if "values" in record:
        more = " ..." if len(record["values"]) > _SHOWN_VALUES else ""
        values = ", ".join(f"{value:.5g}" for value in record["values"][:_SHOWN_VALUES])
        return f"{name}: {values}{more} (shape {record['shape']})"
    return f"{name}: {', '.join(f'{len(found)} {key}' for key, found in record.items() if isinstance(found, list))}"
