"""Calls of the verbs carried out: objects get names, the pipeline runs as for a command, and the model comes back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..artifact import artifact
from ..artifact.from_memory import on_device_of
from ..artifact.origin import remember
from ..core.errors import GuardMissed, InputError
from ..core.options import Options
from ..core.types import Loaded
from ..core.user_code.in_memory import find
from ..export.options import ExportOptions
from ..model.example_inputs import as_forms
from ..pipeline import runner
from ..pipeline.exporting import export_file
from ..pipeline.inspection import benching, predicting
from ..pipeline.inspection.bench_options import BenchOptions, PredictOptions
from ..pipeline.inspection.evaluating import evaluate_model
from ..pipeline.measurement import Measurement, measure_model
from ..pipeline.opening import open_context
from ..pipeline.packing import pack as write_pack
from ..pipeline.recipe import Recipe, RecipeOptions, Step, explain, from_content, read_recipe
from ..pipeline.techniques import STEPS, TECHNIQUES
from .objects import Objects
from .result import Result
from .session import Log, session
from .signatures import fields_of, is_list, takes

_OF_A_MODULE = ("source", "model_arg", "trust_source")  # options that say what builds a module in memory
_NOT_OF_A_MODULE = ("weights", "input")


def technique(verb: str, model: Any, options: dict[str, Any]) -> Result:
    """One technique on one model.

    Args:
        verb: a row of TECHNIQUES.
        model: as the caller gave it.
        options: all keywords, checked to be known.
    """
    objects = Objects()
    with session(objects.named, options.get("progress")) as log:
        shared = recipe_options(verb, model, options, objects)
        own_model = TECHNIQUES[verb].options_model()
        own = validated(verb, own_model, fields_of(own_model, options), objects)
        recipe = Recipe(shared, (Step(verb, own),))
        if own.prints_only():
            context = open_context(shared, log)
            found = _plain(runner.inspect_step(recipe.steps[0], context))
            return Result(remember(on_device_of_call(context.original, objects)), found, None)
        return _run(recipe, objects, options, _command(verb, shared.model, own), log, keep_steps=False)


def run(verb: str, recipe: Any, options: dict[str, Any]) -> Result:
    """A recipe from a file or a mapping."""
    objects = Objects()
    assignments = options.get("assignments", ())
    assignments = (assignments,) if isinstance(assignments, str) else tuple(assignments)
    with session(objects.named, options.get("progress")) as log:
        if isinstance(recipe, Mapping):
            read = from_content(_named(recipe, objects, options.get("example")), assignments)
        elif options.get("example") is not None:
            raise InputError("run: example is for a module in memory, in a recipe that is a mapping; a file says input")
        elif isinstance(recipe, str | os.PathLike):
            read = read_recipe(os.fspath(recipe), assignments)
        else:
            raise InputError(f"run: a recipe is a YAML file or a mapping, not {type(recipe).__name__}")
        output = options.get("output") or read.options.output
        keep_steps = output is not None
        return _run(read, objects, {**options, "output": output}, ["compresskit.run"], log, keep_steps=keep_steps)


def export(verb: str, model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A model written for another runtime."""
    objects = Objects()
    with session(objects.named, options.get("progress")) as log:
        own = validated(verb, ExportOptions, fields_of(ExportOptions, options), objects)
        left_out = tuple(ExportOptions.model_fields)
        shared = recipe_options(verb, model, {"device": "cpu", **options}, objects, left_out)
        output = os.fspath(options.get("output") or f"runs/model{own.suffix()}")
        return _plain(export_file(shared, own, output, force=bool(options.get("force")), log=log))


def measure(verb: str, model: Any, options: dict[str, Any]) -> Measurement:
    """A model measured."""
    objects = Objects()
    against = options.get("against")
    with session(objects.named, options.get("progress")) as log:
        shared = recipe_options(verb, model, options, objects)
        other = None if against is None else objects.model(against)
        context = open_context(shared, log)
        baseline = context.load(other) if other is not None and context.load is not None else None
        return measure_model(context.original, context, shared, against=baseline)


def bench(verb: str, models: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Models and files side by side; a lone one may stand for a list."""
    objects = Objects()
    several = list(models) if isinstance(models, list | tuple) else [models]
    with session(objects.named, options.get("progress")) as log:
        own = validated(verb, BenchOptions, fields_of(BenchOptions, options), objects)
        strings = [objects.model(one) for one in several]
        shared = _shared(verb, strings[0] if strings else "", options, objects, BenchOptions)
        return benching.bench(strings, shared, own, log)


def predict(verb: str, model: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    """A model run on files."""
    objects = Objects()
    inputs = options.pop("inputs", ())
    with session(objects.named, options.get("progress")) as log:
        own = validated(verb, PredictOptions, fields_of(PredictOptions, options), objects)
        shared = _shared(verb, model, options, objects, PredictOptions)
        paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        return predicting.predict([os.fspath(path) for path in paths], shared, own, log)


def evaluate(verb: str, model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A model judged on data."""
    objects = Objects()
    with session(objects.named, options.get("progress")) as log:
        shared = recipe_options(verb, model, options, objects)
        found: dict[str, Any] = _plain(evaluate_model(shared, log))
        return found


def pack(verb: str, model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """A folder that runs with the runtime alone."""
    objects = Objects()
    with session(objects.named, options.get("progress")) as log:
        given = {"with_script": True, **fields_of(ExportOptions, options)}
        own = validated(verb, ExportOptions, given, objects)
        shared = _shared(verb, model, {"device": "cpu", **options}, objects, ExportOptions)
        output = os.fspath(options.get("output") or "runs/packed")
        found: dict[str, Any] = _plain(write_pack(shared, own, output, force=bool(options.get("force")), log=log))
        return found


def _shared(verb: str, model: Any, options: dict[str, Any], objects: Objects, own: type[Options]) -> RecipeOptions:
    """The recipe's options of a call whose own options have some of the same names."""
    return recipe_options(verb, model, options, objects, tuple(own.model_fields))


RUNNERS: dict[str, Callable[[str, Any, dict[str, Any]], Any]] = {
    "run": run,
    "export": export,
    "measure": measure,
    "bench": bench,
    "predict": predict,
    "evaluate": evaluate,
    "pack": pack,
}


def recipe_options(
    verb: str, model: Any, options: dict[str, Any], objects: Objects, leave_out: tuple[str, ...] = ()
) -> RecipeOptions:
    """The recipe's options of a call, its model opened where it is a module in memory."""
    given = {name: value for name, value in fields_of(RecipeOptions, options).items() if name not in leave_out}
    given.pop("output", None)
    string = _model_string(verb, model, given, options.get("example"), objects)
    checked: RecipeOptions = validated(verb, RecipeOptions, {"model": string, **given}, objects)
    return checked


def validated(verb: str, model: type[Options], values: Mapping[str, Any], objects: Objects) -> Any:
    """Options from what a call gave: objects named, a lone value in the place of a list.

    Raises:
        InputError: all errors, one line each.
    """
    plain = {name: _plain_option(f"{verb}: {name}", model, name, value, objects) for name, value in values.items()}
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        raise InputError("\n".join(f"{verb}: {message}" for _, message in explain(error, model))) from None


def _plain_option(where: str, model: type[Options], name: str, value: Any, objects: Objects) -> Any:
    """An option's value as plain data, those of a group's options among them."""
    group = model.groups().get(name)
    if group is not None and isinstance(value, Mapping):
        return {str(key): _plain_option(f"{where}.{key}", group, str(key), one, objects) for key, one in value.items()}
    field = next((leaf.field for leaf in model.leaves() if leaf.name == name), None)
    plain = objects.option(where, value, takes(field) if field is not None else "")
    lone = field is not None and is_list(field.annotation) and not isinstance(plain, list) and plain is not None
    return [plain] if lone else plain


def on_device_of_call(loaded: Loaded, objects: Objects) -> Loaded:
    """A loaded model on the device of the module that its call was given; on the CPU without one."""
    on_device_of(loaded.module, objects.module)
    return loaded


def _model_string(verb: str, model: Any, given: dict[str, Any], example: Any, objects: Objects) -> str:
    """The string of the call's model; what belongs to a module in memory is taken out of the options."""
    if isinstance(model, str | os.PathLike):
        if example is not None:
            if given.get("input"):
                raise InputError(f"{verb}: example and input say the same; give one of them")
            given["input"] = as_forms(example)
        return os.fspath(model)
    for name in _NOT_OF_A_MODULE:
        if given.get(name):
            raise InputError(f"{verb}: {name} would be ignored: the model is a module in memory; leave {name} out")
    built = {name: given.pop(name) for name in _OF_A_MODULE if given.get(name)}
    if "model_arg" in built:
        built["model_args"] = built.pop("model_arg")
    string = objects.model(model, example=example, **built)
    if objects.named and find(string).example is None and given.get("data") is None:
        raise InputError(f"{verb}: what the module takes is unknown; give example, e.g. torch.zeros(1, 3, 224, 224)")
    return string


def _named(recipe: Mapping[str, Any], objects: Objects, example: Any) -> dict[str, Any]:
    """A recipe's mapping as plain data."""
    given = {name: value for name, value in recipe.items() if name not in ("model", "steps")}
    content: dict[str, Any] = {}
    if "model" in recipe:
        content["model"] = _model_string("run", recipe["model"], given, example, objects)
    for name, value in given.items():
        content[name] = _plain_option(f"run: {name}", RecipeOptions, name, value, objects)
    if "steps" in recipe:
        steps = recipe["steps"]
        content["steps"] = [_named_step(one, objects) for one in steps] if isinstance(steps, list | tuple) else steps
    return content


def _named_step(step: Any, objects: Objects) -> Any:
    if not isinstance(step, Mapping):
        return step
    named = {}
    for verb, options in step.items():
        model = STEPS[verb].options_model() if verb in STEPS else Options
        named[verb] = (
            {name: _plain_option(f"run: {verb}.{name}", model, name, value, objects) for name, value in options.items()}
            if isinstance(options, Mapping)
            else options
        )
    return named


def _run(
    recipe: Recipe, objects: Objects, options: Mapping[str, Any], command: list[str], log: Log, *, keep_steps: bool
) -> Result:
    output, temporary = options.get("output"), None
    if output is None:
        temporary = Path(tempfile.mkdtemp(prefix="compresskit-"))
        output = temporary / "model"
    force, resume = bool(options.get("force")), bool(options.get("resume"))
    try:
        task = runner.Run(recipe, Path(output), force, resume, command, log, keep_steps)
        outcome = runner.carry_out(task)
        loaded = outcome.loaded or _loaded_again(task, recipe, objects)
    except GuardMissed:
        raise  # the message names the last good artifact, which may lie in the temporary folder
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    module = remember(on_device_of_call(loaded, objects))
    return Result(module, _plain(outcome.report), task.place.output, temporary=temporary)


def _loaded_again(task: runner.Run, recipe: Recipe, objects: Objects) -> Loaded:
    """The model of an output that an earlier run had finished."""
    original = next((one for one in objects.named.values() if isinstance(one, Loaded)), None)
    module = getattr(original.source, "module", None) if original is not None else None
    source = recipe.options.source if module is None else None
    return artifact.load(task.place.output, trust_source=True, source=source, module=module)


def _command(verb: str, model: str, own: Options) -> list[str]:
    given = "".join(f", {name}={value!r}" for name, value in own.model_dump(exclude_unset=True).items())
    return [f"compresskit.{verb}({model!r}{given})"]


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """What JSON keeps of it: the same as `--json` prints."""
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain
