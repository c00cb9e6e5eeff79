"""How much of the promised gain arrives: measured latency against MACs for ResNet-50 at 50 %, with and without
rounding.

    python benchmarks/pruning/pruning_latency.py --out benchmarks/results/pruning_latency.md

Original and pruned run in turn in this process; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


@torch.no_grad()
def speedup(original: nn.Module, pruned: nn.Module, x: torch.Tensor, rounds: int) -> tuple[float, float, float]:
    """Median, lowest and highest ratio of the original's time to the pruned model's."""
    ratios = []
    for module in (original, pruned):
        for _ in range(2):
            module(x)
    for _ in range(rounds):
        seconds = []
        for module in (original, pruned):
            start = time.perf_counter()
            module(x)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    ratios.sort()
    return statistics.median(ratios), ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, eager only")
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 7 if arguments.quick else 25
    loaded = load_model(arguments.model)
    x = loaded.example
    lines = [
        f"# Latency of {arguments.model} at 50 % of the MACs",
        "",
        f"`python benchmarks/pruning/pruning_latency.py{' --quick' if arguments.quick else ''}`, torch {torch.__version__}, one thread, "  # noqa: E501
        f"batch 1, {rounds} rounds in turn; 10th to 90th percentile in brackets.",
        "",
        "| round_to | MACs ratio | eager speed-up | torch.compile speed-up |",
        "| --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    compiled = None if arguments.quick else torch.compile(loaded.module)
    for round_to in (1, 8, 16, 32):
        pruned = loaded.clone()
        result = prune(pruned, PruneOptions(target_macs=0.5, round_to=round_to), Context(loaded))
        middle, low, high = speedup(loaded.module, pruned.module, x, rounds)
        row = f"| {round_to} | {1 / result.facts['macs_kept']:.2f}x | {middle:.2f}x ({low:.2f} to {high:.2f}) | "
        if compiled is None:
            row += "not measured |"
        else:
            middle, low, high = speedup(compiled, torch.compile(pruned.module), x, rounds)
            row += f"{middle:.2f}x ({low:.2f} to {high:.2f}) |"
        lines.append(row)
        print(row, flush=True)
    pruned = loaded.clone()
    facts = prune(pruned, PruneOptions(target_latency=0.5), Context(loaded)).facts
    middle, low, high = speedup(loaded.module, pruned.module, x, rounds)
    lines += [
        "",
        f"`target_latency: 0.5` (round_to 8): {facts['latency_cuts_measured']} cuts measured, {facts['macs_kept']:.1%} of the MACs "  # noqa: E501
        f"kept, eager speed-up {middle:.2f}x ({low:.2f} to {high:.2f}).",
    ]
    print("\n".join(lines[-2:]), flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
