"""Two artifacts of the same command, by two commits: how far their weights, costs and accuracy are apart.

python benchmarks/house/same_figures.py BEFORE AFTER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def compared(before: Path, after: Path) -> str:
    """One line of a table: cost, accuracy, and the largest difference of any tensor."""
    old, new = (json.loads((folder / "report.json").read_text()) for folder in (before, after))
    figures = [report["steps"][-1]["measurement"] for report in (old, new)]
    tensors = [load_file(folder / "model.safetensors") for folder in (before, after)]
    if {name: tensor.shape for name, tensor in tensors[0].items()} != {n: t.shape for n, t in tensors[1].items()}:
        difference = "other shapes"
    else:
        largest = max(
            float(
                (tensor.double() - tensors[1][name].double()).abs().max() / tensor.double().abs().max().clamp_min(1e-12)
            )
            for name, tensor in tensors[0].items()
            if tensor.numel()
        )
        difference = "equal" if all(torch.equal(t, tensors[1][n]) for n, t in tensors[0].items()) else f"{largest:.1e}"
    cells = [f"{one['macs']:,}, {one['size_bytes']:,} bytes, {one['metric']['value']:.4f}" for one in figures]
    return f"| {after.name} | {cells[0]} | {cells[1]} | {difference} |"


def main() -> None:
    """Print a table of all artifacts that both folders hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args()
    print("| command | before: MACs, bytes, metric | after | largest relative difference of a tensor |")
    print("| --- | --- | --- | --- |")
    for folder in sorted(given.after.iterdir()):
        if (folder / "report.json").is_file() and (given.before / folder.name / "report.json").is_file():
            print(compared(given.before / folder.name, folder))


if __name__ == "__main__":
    main()
