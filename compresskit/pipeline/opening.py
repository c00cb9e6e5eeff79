"""Opening what a recipe names: the model, its data, the metric, the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..analysis.calibration import synthetic_data
from ..analysis.measure.batch_size import LARGEST_BATCH, evaluation_batch
from ..artifact.source import load_model, with_example
from ..core.errors import InputError, first_line, problems_of
from ..core.tensors.dtypes import model_dtype
from ..core.tensors.randomness import unchanged_random_state
from ..core.types import Inputs, Loaded, Preprocessing, call, to_device
from ..core.user_code import in_memory
from ..data.dataset import Data, open_data
from ..data.strings import MADE
from ..export import layer_timing
from ..model.example_inputs import with_floating
from ..model.libraries.trimmed_tokenizer import TOKENIZER
from ..model.text_inputs import text_inputs_of
from ..training.context import Context
from . import judging
from .recipe import RecipeOptions


def open_context(
    options: RecipeOptions,
    log: Callable[[str], None] = lambda line: None,
    opener: Callable[[RecipeOptions], Loaded] | None = None,
) -> Context:
    """Load the recipe's model and open its data: the context that every step starts from.

    Args:
        options: the recipe's.
        log: prints a line of progress.
        opener: opens the model in the place of `load_model`; of commands that take more than can be changed.

    Raises:
        InputError: a line for each of device, model, data and metric that does not open or fit.
    """
    context, problems = open_what_opens(options, log, opener)
    if context is None or problems:
        raise InputError("\n".join(problems))
    return context


def open_what_opens(
    options: RecipeOptions,
    log: Callable[[str], None] = lambda line: None,
    opener: Callable[[RecipeOptions], Loaded] | None = None,
) -> tuple[Context | None, list[str]]:
    """The context as far as it opens, and a line for each thing that does not open or fit; no context without a model.

    Data, metric or device that fail are left out of the context (the CPU takes the device's place), so that the rest
    can still be looked at.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    opened: dict[str, Any] = {"device": torch.device("cpu")}
    problems = problems_of(
        lambda: opened.update(device=pick_device(options.device)),
        lambda: opened.update(original=(opener or open_model)(options)),
        lambda: opened.update(data=_open_data(options, opened.get("original"), log)),
        lambda: opened.update(loss=judging.named_loss(options)),
        lambda: opened.update(metric=judging.named_metric(options, getattr(opened.get("original"), "module", None))),
    )
    device: torch.device = opened["device"]
    original: Loaded | None = opened.get("original")
    data: Data | None = opened.get("data")
    if original is None:
        return None, problems
    for note in original.notes:
        log(note)
    own_example = original.example is not None
    if not own_example and problems and data is None and options.data:
        return None, problems  # the data was to say what the model takes
    if data is not None:
        name_lone_input(original, data)
    misfits = problems_of(lambda: with_example(original, data.example if data else None, asked=bool(options.input)))
    if misfits:
        return None, [*problems, *misfits]
    if options.device == "auto":
        device = _where_it_runs(original, device, log)
    original.module.to(device)
    if data:
        misfits = problems_of(partial(_judge, options, original, data, opened, log))
        for line in data.notes():
            log(f"data: {line}")

    def load(string: str, **given: Any) -> Loaded:
        found = load_model(string, seed=options.seed, trust_source=options.trust_source, **given)
        for note in found.notes:
            log(note)
        found = with_example(found, data.example if data else None)
        found.module.to(device)
        return found

    if misfits and not own_example:
        return None, [*problems, *misfits]
    data = None if misfits else data
    context = Context(
        original, data, opened.get("metric"), options.seed, device, log, load=load, latency_batch=options.latency_batch,
        eval_batch=options.eval_batch or _evaluation_batch(original, data, device), runtime=layer_timing,
        loss=opened.get("loss"), eval_limit=options.eval_limit, task=opened.get("task"),
    )  # fmt: skip
    return context, [*problems, *misfits]


def name_lone_input(loaded: Loaded, data: Data) -> None:
    """Hand the only input of a batch on under its name where forward reads it from a mapping, and takes no tensor."""
    name = data.input_name()
    named: Any = {name: data.example}
    if name and not _takes(loaded, data.example) and _takes(loaded, named):
        data.name_input(name)


def _takes(loaded: Loaded, inputs: Inputs) -> bool:
    """Whether a model runs on inputs."""
    try:
        with unchanged_random_state(torch.device("cpu")), torch.no_grad(), warnings.catch_warnings(action="ignore"):
            call(loaded.module, with_floating(inputs, model_dtype(loaded.module)))
    except Exception:  # code of the user's
        return False
    return True


def _where_it_runs(original: Loaded, device: torch.device, log: Callable[[str], None]) -> torch.device:
    """The device, or the CPU for a model that does not run on it: one that keeps tensors of its own elsewhere, say."""
    if device.type == "cpu":
        return device
    try:
        with unchanged_random_state(device), torch.no_grad():
            call(original.module.to(device), original.example)
    except Exception as error:  # code of the user's
        log(f"the model runs on the CPU and not on {device.type} ({first_line(error)}); the CPU is used")
        return torch.device("cpu")
    return device


def _judge(
    options: RecipeOptions, original: Loaded, data: Data, opened: dict[str, Any], log: Callable[[str], None]
) -> None:
    """Put task, loss and metric into what was opened."""
    opened.update(judging.judged(options, original, data, opened, log))


def _evaluation_batch(original: Loaded, data: Data | None, device: torch.device) -> int:
    if data is None:
        return LARGEST_BATCH
    inputs, _ = next(iter(data.batches("test", batch_size=1)))
    return evaluation_batch(original.module, to_device(inputs, device))


def open_model(options: RecipeOptions) -> Loaded:
    """The model that a recipe names."""
    return load_model(
        options.model,
        weights=options.weights,
        model_args=dict(options.model_arg),
        inputs=list(options.input),
        trust_source=options.trust_source,
        source=options.source,
        seed=options.seed,
    )


def _open_data(
    options: RecipeOptions, model: Loaded | None, log: Callable[[str], None], tokenizers: Sequence[str] = ()
) -> Data | None:
    """The recipe's data as the model takes it; where there is no model, as it is, to say what is wrong with it.

    Args:
        options: name the data.
        model: the model.
        log: prints a line of progress.
        tokenizers: folders of its tokenizer in the place of where it usually lies.
    """
    if not options.data:
        return None
    if options.data == MADE:
        if model is None:
            return None
        return synthetic_data.synthetic_data(model, options.data_arg, seed=options.seed, log=log)
    preprocessing = model.preprocessing if model else Preprocessing()
    return open_data(
        options.data,
        preprocessing,
        dict(options.data_arg),
        workers=options.workers,
        collate=options.collate,
        text_inputs=None
        if model is None
        else text_inputs_of(model.module, *(tokenizers or _tokenizer_folders(options.model, model))),
    )


def with_own_tokenizer(context: Context, loaded: Loaded, options: RecipeOptions) -> Context:
    """The context with its data opened again where a model's tokenizer is another than the original's."""
    own, first = (one.companions.get(TOKENIZER) for one in (loaded, context.original))
    if context.data is None or own is None or first is None or own == first or own.read_bytes() == first.read_bytes():
        return context
    args = {key: value for key, value in options.data_arg.items() if key != "tokenizer"}
    chosen = options.model_copy(update={"data_arg": args})
    return replace(context, data=_open_data(chosen, loaded, context.log, [str(own.parent)]))


def _tokenizer_folders(string: str, model: Loaded) -> list[str]:
    """Where a model's tokenizer may lie: beside its weights, or where an object in memory was read from."""
    folders = [string.partition(":")[2] if string.startswith("hf:") else string]
    if in_memory.is_in_memory(string):
        folders.append(getattr(model.module, "name_or_path", ""))
    return [folder for folder in folders if folder]


def pick_device(name: str) -> torch.device:
    """The device that a name means; auto takes an accelerator where one works.

    Raises:
        InputError: if the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} is not available here: {first_line(error)}; try cpu") from error
    return device
