"""Recipes of configs/ for ResNet-56 on CIFAR-10, run as they stand: one row a recipe, written when it is done.

OMP_NUM_THREADS=1 python benchmarks/person/recipes.py low-rank sparse-2-4 --cifar DIR --weights \
    resnet56_cifar10.safetensors
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from compresskit.core.errors import GuardMissed
from compresskit.pipeline.recipe import read_recipe
from compresskit.pipeline.runner import Run, run

ROOT = Path(__file__).resolve().parents[2]


def row(name: str, settings: list[str]) -> str:
    """Run a recipe; its row of a Markdown table."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        recipe = read_recipe(ROOT / "configs" / f"{name}.yaml", tuple(settings))
        try:
            report = run(Run(recipe, Path(folder) / "out"))
        except GuardMissed as error:
            return f"| {name} | {str(error).partition(';')[0]} | | | | | {(time.process_time() - start) / 60:.1f} |"
    before, after = report["original"], report["steps"][-1]["measurement"]
    latency = after["latency"]
    speed = (
        f"{latency['speedup']:.2f} ({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})" if latency else ""
    )
    figures = [f"{100 * measured['metric']['value']:.2f}" for measured in (before, after)]
    shares = [f"{after[key] / before[key]:.1%}" for key in ("macs", "size_bytes")]
    return "| " + " | ".join([name, *figures, *shares, speed, f"{(time.process_time() - start) / 60:.1f}"]) + " |"


def main() -> None:
    """Append a row for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="RECIPE", help="names of configs/, without .yaml")
    parser.add_argument("--cifar", required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--weights", required=True, help="resnet56_cifar10.safetensors")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of all recipes")
    parser.add_argument("--limit", type=int, default=2000, help="test images")
    parser.add_argument("--rows", type=Path, default=ROOT / "benchmarks" / "results" / "recipes.md")
    given = parser.parse_args()
    shared = [f"weights={given.weights}", f"data=imagefolder:{given.cifar}", f"eval_limit={given.limit}", *given.set]
    for name in given.names:
        line = row(name, shared)
        print(line, flush=True)
        with given.rows.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
