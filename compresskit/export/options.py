"""What `export` takes. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, field_validator, model_validator

from ..core.errors import InputError, nearest
from ..core.options import GuardOptions, Options, choice, option
from ..core.registry import Registry
from .handover.label_file import read_labels
from .handover.runner_script import beside
from .tables import EXPORTERS, RUNTIMES, files_beside, format_named, reads

#: runtimes that tell what single layers take
PROFILED = ("onnxruntime", "openvino")
#: what an artifact holds under names of its own
_TAKEN = ("manifest.json", "model.safetensors", "report.json", "report.html", "recipe.json")


#: options that only some formats read
_NOT_FOR_ALL = ("opset", "factored", "with_script", "dynamic", "with_past", "preprocess", "labels")
#: what dimensions of inputs are called
DIMENSIONS = ("batch", "length", "height", "width")


def _words(value: Any) -> Any:
    """`a,b` as a list, also where it is an entry of one."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        return value
    return [word.strip() for entry in entries for word in entry.split(",") if word.strip()]


def _dimensions(names: list[str]) -> list[str]:
    if names == ["none"]:
        return []
    for name in names:
        if name not in DIMENSIONS:
            raise ValueError(f"unknown dimension {name!r}{nearest(name, DIMENSIONS)}: {', '.join(DIMENSIONS)} or none")
    return list(dict.fromkeys(names))


class ExportOptions(Options):
    """Write a model as a graph for another runtime, and run it there."""

    format: Annotated[str, choice(EXPORTERS)] = option("onnx", "what the model is written as", section="Export")
    runtime: Annotated[str, choice(RUNTIMES)] = option("auto", "where to run the result", section="Export")
    factored: Literal["refuse", "merge"] = option(
        "refuse", "layers that are products of factors, where a format has none: refuse, or merge each into one dense "
        "layer", section="Export",
    )  # fmt: skip
    opset: int = option(21, "ONNX operator set", section="Export", ge=17, le=23)
    dynamic: Annotated[list[str], BeforeValidator(_words), AfterValidator(_dimensions)] = option(
        ["batch"], "dimensions of inputs that the file leaves free: batch, length, height, width, several with commas, "
        "or none; by default batch where the model allows it", section="Export",
    )  # fmt: skip
    with_past: bool = option(
        False, "causal language models: past keys and values as inputs, present ones as outputs", section="Export"
    )
    preprocess: Literal["outside", "inside"] = option(
        "outside", "inside: the graph takes images of bytes (batch, height, width, channels) of the model's size, and "
        "scales and normalizes them itself", section="Export",
    )  # fmt: skip
    labels: str | None = option(
        None, "text file with the name of a class a line, for the file to hold; default: what data or model say",
        section="Export", takes="file",
    )  # fmt: skip
    with_script: bool = option(
        False,
        "write a script and a README beside the file: NAME.py needs the runtime and NumPy alone",
        section="Export",
    )
    keep: Literal["integers", "fastest"] = option(
        "integers", "quantized layers that are slower in integers in the runtime than in float: keep them in integers, "
        "or whatever is fastest, measured", section="Export",
    )  # fmt: skip
    threads: int = option(1, "threads of the runtime while measuring", section="Measuring", ge=1, le=1024)
    batch_size: int = option(1, "inputs a forward while measuring latency", section="Measuring", ge=1)
    rounds: int = option(
        12, "rounds of timing, interleaved with float in the same runtime and in eager PyTorch; 0 leaves latency "
        "unmeasured", section="Measuring", ge=0,
    )  # fmt: skip
    cold_start: Literal["measure", "skip"] = option(
        "measure", "load and run the file once in a fresh process; for its time and its peak of memory: measure, skip",
        section="Measuring",
    )  # fmt: skip
    samples: int = option(512, "inputs to compare outputs on", section="Measuring", ge=1)

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        rows: list[tuple[Registry[Any], str]] = [(EXPORTERS, self.format)]
        if self.runtime != "auto" or EXPORTERS.builtin(self.format):  # else only the user's own function knows
            rows.append((RUNTIMES, self.chosen_runtime()))
        found: dict[str, str] = {}
        for registry, name in rows:
            if registry.builtin(name):
                found |= registry.attribute(name, "packages", {})
        return found

    def chosen_runtime(self) -> str:
        """The runtime that auto stands for; a user's own exporter is loaded to find out."""
        return EXPORTERS.attribute(self.format, "runtime", "eager") if self.runtime == "auto" else self.runtime

    def suffix(self) -> str:
        """The suffix of a file in this format; a user's own exporter is loaded to find out."""
        return EXPORTERS.attribute(self.format, "suffix", f".{self.format.rpartition(':')[2]}")

    def files_beside(self, name: str) -> list[str]:
        """Names of further files that an export may write beside the one of that name."""
        further = [path.name for path in files_beside(Path(name))]
        return [*further, *(beside(name, tokenizer=True, labels=True) if self.with_script else [])]

    def takes_model(self) -> bool:
        """Whether the format is written from the model itself, not from its graph; a user's own exporter is loaded."""
        return EXPORTERS.attribute(self.format, "takes", "program") == "model"

    def fixed_batch(self) -> int | None:
        """The one batch size that the format is written for; None where it is left free."""
        return self.batch_size if EXPORTERS.attribute(self.format, "batch", "free") == "fixed" else None

    def check_name(self, name: str) -> None:
        """Refuse a file's name that is one of another format, or from which that of the file beside it does not follow.

        Raises:
            InputError: (a ValueError) naming the format or the suffix.
        """
        other = format_named(name)
        if other not in (None, self.format) and EXPORTERS.builtin(self.format) and not name.endswith(self.suffix()):
            mend = f"say --format {other}, or name a file that ends in {self.suffix()}"
            raise InputError(f"{name!r} is a name for files of format {other}, not {self.format}; {mend}")
        if EXPORTERS.attribute(self.format, "beside", "") and not name.endswith(self.suffix()):
            raise InputError(f"a file of format {self.format} ends in {self.suffix()}, got {name!r}")

    def writes_folder(self) -> bool:
        """Whether the format is a folder; a user's own exporter is loaded to find out."""
        return EXPORTERS.attribute(self.format, "writes", "file") == "folder"

    def check_pair(self) -> None:
        """Refuse a runtime that does not read the format; rows of the user's own are loaded.

        Raises:
            InputError: (a ValueError) naming the runtimes that do.
        """
        runtime = self.chosen_runtime()
        if reads(runtime, self.format):
            return
        own = EXPORTERS.attribute(self.format, "runtime", "eager")
        readers = dict.fromkeys(
            [own, *sorted(name for name in RUNTIMES if name != "auto" and _on_cpu(name) and reads(name, self.format))]
        )
        raise InputError(f"runtime {self.runtime!r} does not read {self.format}; choose {' or '.join(readers)}")

    @field_validator("labels")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            read_labels(value)
        return value

    @model_validator(mode="after")
    def _runtime_reads_the_format(self) -> ExportOptions:
        known = EXPORTERS.builtin(self.format)
        if known and (self.runtime == "auto" or RUNTIMES.builtin(self.runtime)):
            self.check_pair()
        if self.keep == "fastest" and known and self.chosen_runtime() not in PROFILED:
            raise ValueError(f"keep fastest times layers in {' or '.join(PROFILED)}; choose one of them as runtime")
        if self.keep == "fastest" and not self.rounds:
            raise ValueError("keep fastest is decided by timing, which rounds 0 leaves out")
        for name in _NOT_FOR_ALL if known else ():
            if name in self.model_fields_set and name not in EXPORTERS.attribute(self.format, "options", ()):
                raise ValueError(f"{name} would be ignored: format is {self.format!r}")
        if self.with_past and "dynamic" in self.model_fields_set:
            raise ValueError("dynamic would be ignored: with_past leaves batch and lengths free")
        if self.with_past and self.preprocess == "inside":
            raise ValueError("preprocess 'inside' is for images, with_past for language models")
        return self


def _on_cpu(runtime: str) -> bool:
    return not {"device", "provider"} & RUNTIMES[runtime].attributes.keys()


class ExportStepOptions(ExportOptions, GuardOptions):
    """A file for another runtime beside the artifact, whose figures there the guards are about."""

    file: str | None = option(
        None, "name of the file in the output folder; default: model, with the format's suffix", section="Export"
    )

    def file_name(self) -> str:
        """The file's name; a user's own exporter is loaded to find out."""
        return self.file or f"model{self.suffix()}"

    def keeps_layers(self) -> bool:
        """Whether the model has the same layers afterwards: it is left as it is."""
        return True

    def own_rounds(self) -> int | None:
        """Rounds by which a step measures its latency in its own way: in the runtime."""
        return self.rounds

    @field_validator("file")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if not value or set(value) & set("/\\\0") or value.startswith("."):
            raise ValueError("must be the name of a file in the output folder, e.g. model.onnx")
        if value in _TAKEN or value.endswith(".py"):
            raise ValueError(f"{value!r} may be a file of the artifact itself; give another name, e.g. model.onnx")
        return value
