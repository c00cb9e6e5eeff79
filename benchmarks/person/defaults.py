"""What a command does by default, beside the best options known for the same work, with the minutes of both.

    OMP_NUM_THREADS=1 python benchmarks/person/defaults.py resnet20 prune plain --cifar DIR --models ../shared/models
    OMP_NUM_THREADS=1 python benchmarks/person/defaults.py resnet20 prune fast best --rows \
        benchmarks/results/defaults.md

A row is one run of a recipe of one step, as the command line makes it: checks, step, artifact, measurement on test
images (or blocks) that choose nothing. It is appended to --rows when it is done. `plain` names no option but how much;
`known` adds the options of the best row of earlier tables; `fast` and `best` are `--effort`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from compresskit.core.errors import CompresskitError
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

ROOT = Path(__file__).resolve().parents[2]
_RECONSTRUCTION = {"criterion": "reconstruction-loss", "scope": "global", "normalize": "macs"}
_STUDENT = {"student_width": 0.5, "epochs": 1, "train_limit": 10_000}
_GPTQ = {"rounding": "gptq", "bias_correction": True}
#: technique -> (command, what the plain one names, what the best known one adds)
TECHNIQUES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "prune": ("prune", {"target_macs": 0.5}, _RECONSTRUCTION),
    "sparse": ("prune", {"granularity": "weight", "ratio": 0.7}, {"saliency": "sparsegpt", "allocation": "solve"}),
    "int4": ("quantize", {"scheme": "int4-weight"}, _GPTQ | {"reconstruct": "none"}),
    "int8": ("quantize", {"scheme": "int8-static"}, _GPTQ),
    "decompose": ("decompose", {"target_macs": 0.5}, {"norms": "reestimate"}),
    "search": ("search", {"target_macs": 0.5}, {"seconds": 90, "refit": "auto"}),
    "distill": ("distill", _STUDENT, {"loss": ["kd", "at"]}),
    "qat": (
        "quantize",
        {"scheme": "w4a4", "qat": "kd", "epochs": 1, "train_limit": 10_000},
        {"lr": 2e-3, "batch_size": 64},
    ),
}
_TEXT = {"distill": {"loss": ["kd"]}}


def recipe(net: str, technique: str, kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """The recipe of a row."""
    command, options, known = TECHNIQUES[technique]
    options = dict(options)
    if kind == "known":
        options |= (_TEXT.get(technique, known) if net == "tinylm" else known) | dict(given.option)
    elif kind != "plain":
        options["effort"] = kind
    models = {
        "resnet20": {"model": "builtin:cifar_resnet20", "weights": f"{given.models}/resnet20_cifar10.safetensors"},
        "resnet56": {"model": "builtin:cifar_resnet56", "weights": f"{given.models}/resnet56_cifar10.safetensors"},
        "mobilenet": {"model": given.mobilenet, "source": f"{ROOT}/benchmarks/quantization/mobilenet_cifar.py:make"},
        "unet": {"model": given.unet, "source": str(ROOT / "examples" / "segmentation_unet.py") + ":UNet"},
        "tinylm": {"model": f"hf:{given.models}/tinylm"},
    }
    data: dict[str, Any] = {"data": f"imagefolder:{given.cifar}"}
    if net == "unet":
        data = {"data": "digits-segmentation", "data_arg": {"train": 1200, "test": 300}}
    if net == "tinylm":
        data = {"data": f"text:{given.text}", "data_arg": {"length": 128}}
    limit = min(given.limit, 200) if net == "tinylm" else given.limit
    return models[net] | data | {"eval_limit": limit, "latency_rounds": 0, "threads": 1, "seed": given.seed,
                                 "steps": [{command: options}]}  # fmt: skip


def row(net: str, technique: str, kind: str, given: argparse.Namespace) -> str:
    """Run it; the row of a Markdown table."""
    started, passed = time.process_time(), time.perf_counter()
    described = recipe(net, technique, kind, given)
    cells = [net, technique, kind]
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = run(Run(validate(described), Path(folder) / "out", log=lambda line: print(line, flush=True)))
        except CompresskitError as error:
            cells += [str(error).partition(";")[0], "", "", "", "", ""]
        else:
            step, before = report["steps"][-1], report["original"]
            after, estimate = step["measurement"], step["effort"]["seconds"]
            name = after["metric"]["name"]
            scale = 1 if name == "perplexity" else 100
            cells += [f"{name} {scale * before['metric']['value']:.2f}", f"{scale * after['metric']['value']:.2f}"]
            cells += [f"{after[key] / before[key]:.1%}" for key in ("macs", "size_bytes")]
            cells += [f"{estimate / 60:.1f}" if estimate is not None else ""]
    minutes = [f"{(time.process_time() - started) / 60:.1f}", f"{(time.perf_counter() - passed) / 60:.1f}"]
    own = given.option if kind == "known" else []
    cells[2] += "".join(f" {key}={value}" for key, value in own) + (f", seed {given.seed}" if given.seed else "")
    return "| " + " | ".join([*cells, *minutes]) + " |"


def _pair(text: str) -> tuple[str, Any]:
    import yaml

    name, _, value = text.partition("=")
    return name, yaml.safe_load(value)


def main() -> None:
    """Append the rows asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("net", choices=["resnet20", "resnet56", "mobilenet", "unet", "tinylm"])
    parser.add_argument("technique", choices=TECHNIQUES)
    parser.add_argument("kinds", nargs="+", choices=["plain", "known", "fast", "best"])
    parser.add_argument("--cifar", default="cifar10", help="CIFAR-10 as an image folder")
    parser.add_argument("--models", default="../shared/models")
    parser.add_argument("--text", default="../shared/data/pytext", help="the text that tinylm learned from")
    parser.add_argument("--mobilenet", help="what `train` wrote of mobilenet_cifar.py")
    parser.add_argument("--unet", help="what `train` wrote of examples/segmentation_unet.py")
    parser.add_argument("--limit", type=int, default=2000, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", type=_pair, action="append", default=[], help="another KEY=VALUE of `known`")
    parser.add_argument("--rows", type=Path, default=ROOT / "benchmarks" / "results" / "defaults.md")
    given = parser.parse_args()
    for kind in given.kinds:
        line = row(given.net, given.technique, kind, given)
        print(line, flush=True)
        with given.rows.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
