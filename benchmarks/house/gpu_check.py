"""Every technique on an accelerator beside the CPU: are choices and weights the same, and how long does each take?

    python benchmarks/house/gpu_check.py [--device cuda] [--width 64] [--rows ROW ...]

A small network is trained on the digits, then each row is done on both devices with the same seed. Where no accelerator
is at hand, `--device cpu` compares the CPU with itself: that shows only that the check runs. Under ten minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import compresskit

#: row -> (technique, options)
_STEPS = {"iterations": 50, "reconstruction_samples": 1024}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("train", {"epochs": 2, "precision": "float32"}),
    "train, bf16": ("train", {"epochs": 2, "precision": "bfloat16"}),
    "prune, refit": ("prune", {"target_macs": 0.5, "reconstruct": "sequential"}),
    "prune, blocks": ("prune", {"target_macs": 0.5, "reconstruct": "block", "joint_iterations": 100, **_STEPS}),
    "2:4, sparsegpt": ("prune", {"granularity": "n:m", "saliency": "sparsegpt", "reconstruct": "none"}),
    "zeros, solved": ("prune", {"granularity": "weight", "ratio": 0.7, "saliency": "wanda", "reconstruct": "none"}),
    "taylor": ("prune", {"target_macs": 0.7, "criterion": "taylor", "reconstruct": "inputs"}),
    "int8, static": ("quantize", {"scheme": "int8-static"}),
    "int4, gptq": ("quantize", {"scheme": "int4-weight", "rounding": "gptq", "reconstruct": "none"}),
    "nf4": ("quantize", {"scheme": "nf4"}),
    "codebook": ("quantize", {"scheme": "codebook", "bits": 4}),
    "w4a4, blocks": ("quantize", {"scheme": "w4a4", "reconstruct": "block", **_STEPS}),
    "ranks": (
        "decompose",
        {"target_macs": 0.5, "objective": "activation", "slower_layers": "allow", "reconstruct": "none"},
    ),
    "distill": ("distill", {"student": "builtin:digits_cnn", "student_args": {"width": 4}, "epochs": 1, "loss": "kd"}),
}


def done(technique: str, options: dict[str, Any], model: str, device: str, folder: Path) -> tuple[Any, list, float]:
    """The result of a technique on a device, its edits, and the seconds that the step took."""
    result = getattr(compresskit, technique)(
        model, data="digits", device=device, latency_rounds=0, seed=0, output=str(folder), force=True, **options
    )
    edits = json.loads((folder / "manifest.json").read_text())["edits"]
    return result, edits, result.report["steps"][-1]["seconds"]


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> str:
    """The largest difference of any tensor, relative to its largest number; or what keeps them from being compared."""
    if {name: one.shape for name, one in first.items()} != {name: one.shape for name, one in second.items()}:
        return "other shapes"
    largest = 0.0
    for name, one in first.items():
        mine, other = one.detach().cpu().double(), second[name].detach().cpu().double()
        if mine.numel():
            largest = max(largest, float((mine - other).abs().max() / mine.abs().max().clamp(min=1e-12)))
    return f"{largest:.1e}"


def main() -> None:
    """Print a row for each piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    given = parser.parse_args()
    card = torch.cuda.get_device_name() if given.device.startswith("cuda") else "no accelerator: the CPU beside itself"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {given.device}: {card}\n")
    print("| work | the same edits | largest relative difference of weights | top-1, CPU | top-1, device "
          "| seconds, CPU | seconds, device |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "trained"))
        compresskit.train(
            "builtin:digits_cnn", model_arg={"width": given.width}, data="digits", epochs=3, output=model,
            latency_rounds=0, device="cpu",
        )  # fmt: skip
        for name in given.rows:
            technique, options = ROWS[name]
            (mine, edits, cpu_s), (other, others, device_s) = (
                done(technique, options, model, one, Path(folder, "made")) for one in ("cpu", given.device)
            )
            same = "yes" if edits == others else "no"
            gap = difference(mine.model.state_dict(), other.model.state_dict())
            scores = [f"{100 * one.report['steps'][-1]['measurement']['metric']['value']:.2f}" for one in (mine, other)]
            print(f"| {name} | {same} | {gap} | {scores[0]} | {scores[1]} | {cpu_s:.1f} | {device_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
