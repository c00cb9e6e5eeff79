"""A U-Net and a detector on scenes of digits: the float model, int8, 4-bit weights, half the MACs, half the width.

python benchmarks/tasks/tasks.py segmentation --seeds 0 1 2
python benchmarks/tasks/tasks.py detection --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import copy
import functools
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

import compresskit

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2] / "examples"), str(HERE.parents[1] / "quantization")]
SETTINGS: dict[str, dict[str, Any]] = {
    "segmentation": {"size": 32, "lr": 0.01, "epochs": 16},
    "detection": {"size": 64, "lr": 0.004, "epochs": 12},
}
GPTQ: dict[str, Any] = {"rounding": "gptq", "bias_correction": True}


def make(task: str, width: int) -> nn.Module:
    """The model of a task."""
    if task == "segmentation":
        import segmentation_unet

        return segmentation_unet.UNet(width)
    import detection_ssd

    return detection_ssd.make(width)


def value(result: Any) -> float:
    """The metric after a call, or of a measurement, in points."""
    if isinstance(result, compresskit.Result):
        return 100 * result.report["steps"][-1]["measurement"]["metric"]["value"]
    return 100 * result.metric["value"]


def measure(task: str, options: argparse.Namespace, seed: int, rows: Any) -> dict[str, float]:
    """Metric by name, in points, of one seed."""
    settings = SETTINGS[task]
    shared: dict[str, Any] = {
        "data": f"digits-{task}", "latency_rounds": 0, "seed": seed,
        "data_arg": {"train": options.train, "test": options.test, "size": settings["size"]},
    }  # fmt: skip
    training: dict[str, Any] = {
        "optimizer": "adamw", "lr": settings["lr"], "batch_size": 16, "grad_clip": 5.0, "keep": "last",
    }  # fmt: skip
    whole = {"epochs": options.epochs or settings["epochs"], **training, **shared}
    recover = {"recover": "kd", "epochs": options.recovery_epochs, **training, **shared}

    # blocks tuned to the whole model first, which wants a gentler training afterwards
    gentle = {**recover, "reconstruct": "block", "lr": settings["lr"] / 2, "batch_size": 8}
    ranked = {"scope": "global", "normalize": "macs"}
    # what blocks tuned to the whole model gave is lost again at higher rates
    softest = {"epochs": options.recovery_epochs, **training, "lr": 0.001, **shared}
    short = {"epochs": options.recovery_epochs, "optimizer": "adamw", "batch_size": 8, "keep": "last", **shared}

    weights = None if options.rows is None else options.rows.with_name(f"{task}-{seed}.safetensors")

    @functools.cache
    def full() -> Any:
        torch.manual_seed(seed)
        module = make(task, options.width)
        if weights is not None and weights.exists():
            load_model(module, str(weights))
            return module.eval()
        result = compresskit.train(module, **whole)
        if weights is not None:
            save_model(result.model, str(weights))
        return result

    def module() -> nn.Module:
        found = full()
        return found.model if isinstance(found, compresskit.Result) else found

    @functools.cache
    def small() -> Any:
        pruned = compresskit.prune(
            full(), target_macs=0.72, criterion="reconstruction-loss", **ranked, reconstruct="block", **shared
        )
        return compresskit.decompose(
            pruned.model, target_macs=0.5 / 0.72, reconstruct="block", slower_layers="allow", **shared
        )

    def taught(**options: Any) -> Any:
        return compresskit.distill(copy.deepcopy(small().model), teacher=module(), **options)

    calls: dict[str, Callable[[], Any]] = {
        "float": lambda: compresskit.measure(full(), **shared),
        "int8-static": lambda: compresskit.quantize(full(), scheme="int8-static", **shared),
        "int8-static, GPTQ": lambda: compresskit.quantize(full(), scheme="int8-static", **GPTQ, **shared),
        "int4-weight": lambda: compresskit.quantize(full(), scheme="int4-weight", **shared),
        "int4-weight, GPTQ": lambda: compresskit.quantize(full(), scheme="int4-weight", **GPTQ, **shared),
        "int4-weight in groups, GPTQ": lambda: compresskit.quantize(
            full(), scheme="int4-weight", granularity="group", group_size=32, **GPTQ, **shared
        ),
        "int4-weight, trained": lambda: compresskit.quantize(full(), scheme="int4-weight", qat="kd", **short),
        "int4-weight in groups, trained": lambda: compresskit.quantize(
            full(), scheme="int4-weight", granularity="group", group_size=32, qat="kd", **short
        ),
        "int4-weight, blocks": lambda: compresskit.quantize(
            full(), scheme="int4-weight", reconstruct="block", **shared
        ),
        "int4-weight in groups, blocks": lambda: compresskit.quantize(
            full(), scheme="int4-weight", granularity="group", group_size=32, reconstruct="block", **shared
        ),
        "int4-weight, blocks, trained": lambda: compresskit.quantize(
            full(), scheme="int4-weight", reconstruct="block", qat="kd", **{**short, "lr": 0.0002}
        ),
        "half the MACs, kd": lambda: compresskit.prune(full(), target_macs=0.5, **recover),
        "half the MACs, blocks": lambda: compresskit.prune(full(), target_macs=0.5, reconstruct="block", **shared),
        "half the MACs, blocks and kd": lambda: compresskit.prune(full(), target_macs=0.5, **gentle),
        "half the MACs, taylor, blocks and kd": lambda: compresskit.prune(
            full(), target_macs=0.5, criterion="taylor", **ranked, **gentle
        ),
        "half the MACs, reconstruction-loss, blocks and kd": lambda: compresskit.prune(
            full(), target_macs=0.5, criterion="reconstruction-loss", **ranked, **gentle
        ),
        "half the MACs, pruned and decomposed, blocks and kd": lambda: taught(temperature=1.0, **softest),
        "half the MACs, pruned and decomposed, 4 times the epochs": lambda: taught(
            **{**softest, "epochs": 4 * options.recovery_epochs, "lr": settings["lr"] / 2, "batch_size": 8}
        ),
        "half the MACs, taylor, kd, 4 times the epochs": lambda: compresskit.prune(
            full(),
            target_macs=0.5,
            criterion="taylor",
            **ranked,
            **{**recover, "epochs": 4 * options.recovery_epochs, "batch_size": 8},
        ),  # fmt: skip
        "half the MACs, kd without labels": lambda: compresskit.prune(
            full(), target_macs=0.5, labels="ignore", **recover
        ),
    }
    if task == "detection":
        calls |= {
            "half the width, distilled": lambda: compresskit.distill(full(), student_width=0.5, **whole),
            "half the width, trained alone": lambda: compresskit.train(make(task, options.width // 2), **whole),
        }

    def row(call: Callable[[], Any]) -> dict[str, Any]:
        started = time.process_time()
        return {"points": value(call()), "cpu_s": round(time.process_time() - started)}

    found = {}
    for name, call in calls.items():
        key = f"{task} {seed} {name}"
        if key not in rows.found and options.row is not None and not any(part in name for part in options.row):
            continue
        one = rows.get(key, functools.partial(row, call))
        found[name] = one["points"]
        print(f"seed {seed}, {name}: {one['points']:.2f} ({one['cpu_s']} s of CPU)", flush=True)
    return found


def main() -> None:
    """Print a table of mean and spread over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tuple(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--train", type=int, default=1600)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument(
        "--epochs", type=float, help="of the first training; default: 16 for segmentation, 12 for detection"
    )
    parser.add_argument("--recovery-epochs", type=float, default=2)
    parser.add_argument("--rows", type=Path, help="file of finished rows, which a run that was cut short goes on from")
    parser.add_argument(
        "--row", nargs="+", help="measure only rows whose names hold one of these; others are shown where finished"
    )
    options = parser.parse_args()
    from quantization_peers import Rows

    print(f"command: python benchmarks/tasks/tasks.py {' '.join(sys.argv[1:])}")
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    found = [measure(options.task, options, seed, Rows(options.rows)) for seed in options.seeds]
    print(f"\n{'row':52} {'mean':>7} {'float less':>10}   each seed")
    for name in dict.fromkeys(name for row in found for name in row):
        both = [row for row in found if name in row]
        mean = sum(row[name] for row in both) / len(both)
        drops = [row["float"] - row[name] for row in both if "float" in row]
        drop = f"{sum(drops) / len(drops):.2f}" if drops else ""
        print(f"{name:52} {mean:7.2f} {drop:>10}   {' '.join(f'{row[name]:.2f}' for row in both)}")


if __name__ == "__main__":
    main()
