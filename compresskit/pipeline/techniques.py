"""The table of techniques: options model, entry point, summary. Strings only, so that listing them imports nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple


class Technique(NamedTuple):
    """One technique.

    Attributes:
        options: "module:class" of its options model.
        run: "module:function" taking (loaded, options, context) and returning a StepResult.
        summary: one line of help.
        example: what `--help` shows as an example, without the program's name.
        common: the options that `--help` shows before those that are asked for by section.
        preview: what a dry run does with it: "run" the cut itself, "same" where MACs do not change, "unknown".
        check: "module:function" taking (a copy of the model, options, context), which raises InputError with a line
            for each thing that `run` would refuse only later; empty where there is none.
        leaves_model: whether the model stays as it is, and what the step makes stands beside it.
    """

    options: str
    run: str
    summary: str
    example: str
    common: tuple[str, ...]
    preview: Literal["run", "same", "unknown"] = "run"
    check: str = ""
    leaves_model: bool = False

    def options_model(self) -> type[Any]:
        """The options model; imports pydantic, not torch."""
        return _resolve(self.options)

    def function(self) -> Callable:
        """The entry function; imports torch."""
        return _resolve(self.run)

    def checker(self) -> Callable | None:
        """The check before work, if there is one; imports torch."""
        return _resolve(self.check) if self.check else None


TECHNIQUES: dict[str, Technique] = {
    "train": Technique(
        "compresskit.training.options:TrainStepOptions",
        "compresskit.training.loop:train_step",
        "Train or fine-tune a model.",
        "train builtin:digits_cnn --data digits --epochs 10 -o runs/base",
        ("data", "weights", "epochs", "lr", "batch_size", "augment", "task_loss", "metric"),
        "same",
        check="compresskit.training.train_check:check_training",
    ),
    "prune": Technique(
        "compresskit.pruning.options:PruneOptions",
        "compresskit.pruning.structured.prune:prune",
        "Remove channels, heads, blocks or single weights.",
        "prune runs/base --data digits --target-macs 0.5 --recover finetune -o runs/pruned",
        ("data", "weights", "target_macs", "ratio", "criterion", "recover", "epochs", "max_drop"),
        check="compresskit.pruning.check:check",
    ),
    "quantize": Technique(
        "compresskit.quantization.options:QuantizeOptions",
        "compresskit.quantization.quantize:quantize",
        "Store weights, and compute, in fewer bits.",
        "quantize runs/pruned --scheme int8-static --data digits -o runs/int8",
        ("data", "weights", "scheme", "bits", "target_bits", "rounding", "recover", "max_drop"),
        "same",
        check="compresskit.quantization.check:check",
    ),
    "decompose": Technique(
        "compresskit.decomposition.options:DecomposeOptions",
        "compresskit.decomposition.decompose:decompose",
        "Replace layers by low-rank factors.",
        "decompose runs/base --target-macs 0.5 --recover kd --data digits -o runs/lowrank",
        ("data", "weights", "target_macs", "energy", "kind", "recover", "epochs", "max_drop"),
        check="compresskit.decomposition.check:check",
    ),
    "distill": Technique(
        "compresskit.distillation.options:DistillOptions",
        "compresskit.distillation.distill:distill",
        "Train a student from a teacher.",
        "distill builtin:digits_cnn_small --teacher runs/base --data digits --epochs 10 -o runs/student",
        ("data", "teacher", "teacher_weights", "student_width", "loss", "epochs", "lr", "max_drop"),
        "same",
        check="compresskit.distillation.check:check",
    ),
    "search": Technique(
        "compresskit.search.options:SearchOptions",
        "compresskit.search.search:search",
        "Find each layer's share under a budget, automatically.",
        "search runs/base --data digits --technique prune --target-macs 0.5 --policy solve -o runs/searched",
        ("data", "weights", "technique", "target_macs", "target_drop", "policy", "seconds", "recover"),
        "unknown",
        check="compresskit.search.check:check",
    ),
}

#: what a recipe's steps may be: the techniques, and what is no command of a technique's form
STEPS: dict[str, Technique] = {
    **TECHNIQUES,
    "export": Technique(
        "compresskit.export.options:ExportStepOptions",
        "compresskit.export.step:export_step",
        "Write the model as a graph for another runtime, and measure it there.",
        "export runs/int8 --data digits -o model.onnx",
        ("data", "format", "runtime", "opset", "batch_size", "max_macs"),
        "same",
        check="compresskit.export.step:check",
        leaves_model=True,
    ),
}


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
