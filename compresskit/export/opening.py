"""Exported files as models: opened in the runtime that reads them, to be run and judged, never to be changed."""

from __future__ import annotations

from pathlib import Path

import torch

from ..core.errors import InputError, beside
from ..core.types import Inputs, Loaded, or_later
from ..model import example_inputs
from ..model.exported import exported_program, load_exported, preprocessing_in
from .options import ExportOptions
from .runtimes.exported import Exported, InputSpec, Runner
from .tables import EXPORTERS, RUNTIMES, reads

_GGUF, _PT2 = ".gguf", ".pt2"


def suffixes() -> dict[str, str]:
    """Suffix of exported files -> their format."""
    rows = ((name, row.attributes.get("suffix", "")) for name, row in EXPORTERS.items())
    return {suffix: name for name, suffix in rows if suffix.startswith(".")}


def format_of(string: str) -> str:
    """The format of an exported file, by its suffix."""
    return suffixes()[Path(string).suffix]


def is_file(string: str) -> bool:
    """Whether a model string names an exported file, which need not be there."""
    return ":" not in Path(string).name and Path(string).suffix in suffixes() and not Path(string).is_dir()


def open_file(
    string: str,
    *,
    runtime: str = "auto",
    threads: int = 1,
    inputs: list[str] | None = None,
    trust_source: bool = False,
) -> Loaded:
    """An exported file in its runtime, as a model that runs.

    Args:
        string: path of a .onnx, .xml, .pte, .tflite or .pt2 file.
        runtime: a row of RUNTIMES; auto is the one made for the format.
        threads: of the runtime.
        inputs: example inputs where the file leaves sizes open, `[NAME=]D,D,...[:DTYPE[:HIGH]]`.
        trust_source: reading a .pt2 can run code that it carries, so that its user must say so.
    Returns:
        the runtime's session as a module, whose `about` is what the file says of its preprocessing and labels.
    Raises:
        InputError: if the file is missing or damaged, the runtime does not read it, or is not installed.
    """
    path = Path(string)
    form = format_of(string)
    if not path.is_file():
        raise InputError(f"model {string!r} does not exist{beside(path)}")
    if path.suffix == _GGUF:
        raise InputError(
            f"model {string!r}: GGUF files run in llama.cpp (llama-bench -m {path.name}); here, give the model that it "
            "was written from, or its export to onnx"
        )
    chosen = EXPORTERS.attribute(form, "runtime", "eager") if runtime == "auto" else runtime
    if not reads(chosen, form):
        ExportOptions.model_construct(format=form, runtime=chosen).check_pair()
    if path.suffix == _PT2:
        return _program(path, chosen, threads, inputs, trust_source)
    runner = RUNTIMES.load(chosen)(Exported(None, None, path, or_later(None), threads))
    about = dict(getattr(runner, "about", {}))
    specs = getattr(runner, "specs", ())
    example = example_inputs.parse(inputs) if inputs else _example(string, specs)
    return Loaded(
        runner, {"kind": "file", "path": string, "runtime": chosen}, example, name=path.stem,
        preprocessing=preprocessing_in(about),
    )  # fmt: skip


def _program(path: Path, runtime: str, threads: int, inputs: list[str] | None, trust_source: bool) -> Loaded:
    loaded = load_exported(path, inputs, trust_source=trust_source)
    if runtime == "eager":
        return loaded
    exported = Exported(loaded.module, exported_program(loaded.module), path, loaded.example, threads)
    about, loaded.module = loaded.module.__dict__["about"], RUNTIMES.load(runtime)(exported)
    if isinstance(loaded.module, Runner):
        loaded.module.tell(about)
    return loaded


def _example(string: str, specs: tuple[InputSpec, ...]) -> Inputs:
    """Inputs of the sizes that a file names, its free batch size taken as 1.

    Raises:
        InputError: if another size is free.
    """
    tensors = {}
    for spec in specs:
        sizes = [1 if size is None and axis == 0 else size for axis, size in enumerate(spec.shape)]
        if None in sizes:
            shown = ",".join("N" if size is None else str(size) for size in sizes[1:])
            raise InputError(
                f"model {string!r} leaves sizes of its input {spec.name!r} open; give them as "
                f"--input {spec.name}={shown}{'' if spec.dtype.is_floating_point else ':int64:1000'}"
            )
        high = None if spec.dtype.is_floating_point or spec.dtype is torch.bool else 2
        tensors[spec.name] = example_inputs.spread([int(size or 1) for size in sizes], spec.dtype, high)
    if not tensors:
        raise InputError(f"model {string!r} names no inputs")
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors
