"""Search policies side by side: ResNet-56 (or another model) at half the MACs, equal time for every policy.

    python benchmarks/search_policies.py --cifar DIR --weights FILE [--policies uniform random ...] [--seeds 0 1 2]

Time is the process's own processor time on one thread, so that other work on the machine does not matter; every policy
gets the same. Ranking channels and taking second moments is common to all and not counted; probes are. Candidates are
scored on held-out training images; the test split is read once, for each policy's winner. `--finetune N` then trains
every winner for N steps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from compresskit.core.data import open_data
from compresskit.core.metrics import make_metric
from compresskit.core.options import TrainOptions
from compresskit.core.source import load_model
from compresskit.core.train import train
from compresskit.core.types import Context, Loaded
from compresskit.search.options import SearchOptions
from compresskit.search.problem import Choice, Problem
from compresskit.search.search import carry_out, problem_of, run_policy
from compresskit.search.tables import SUBJECTS

POLICIES = ["uniform", "random", "greedy", "evolution", "amc", "solve"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:cifar_resnet56")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cifar", required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--technique", default="prune", choices=["prune", "quantize"])
    parser.add_argument("--budget", default="macs=0.5", help="e.g. macs=0.5, or bytes=0.14 for quantize")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--score-samples", type=int, default=256)
    parser.add_argument("--test-samples", type=int, default=2000)
    parser.add_argument("--finetune", type=int, default=0, help="training steps of each winner")
    parser.add_argument("--criterion", default="l1")
    parser.add_argument("--out", default="search_policies.jsonl")
    parser.add_argument("--quick", action="store_true", help="one seed, ten seconds")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.quick:
        given.seeds, given.seconds, given.test_samples = [0], 10, 500
    torch.set_num_threads(1)
    loaded = load_model(given.model, weights=given.weights)
    data = open_data(f"imagefolder:{given.cifar}", loaded.preprocessing)
    metric = make_metric("top1", loaded.module)
    test = data.batches("test", batch_size=64, limit=given.test_samples)
    print(f"original: {metric(loaded.module, test)}", flush=True)
    for seed in given.seeds:
        context = Context(loaded.clone(), data, metric, seed=seed)
        subject = None
        for policy in given.policies:
            options = options_of(given, policy)
            subject = subject or SUBJECTS.load(given.technique)(
                loaded, options, context
            )  # ranking and moments: once a seed
            problem = problem_of(subject, loaded, options, context, clock=time.process_time)
            choice = run_policy(policy, problem, seed, options)
            spent = problem.elapsed
            row = describe(problem, choice, metric(subject.build(choice), test).value)
            row = {"policy": policy, "seed": seed, "seconds": round(spent, 1), **row}
            if given.finetune:
                row["test_finetuned"] = finetuned(problem, choice, loaded, context, test, given.finetune)
            with Path(given.out).open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({key: value for key, value in row.items() if key != "choice"}, flush=True)


def options_of(given: argparse.Namespace, policy: str) -> SearchOptions:
    """The search that is benchmarked."""
    cost, _, figure = given.budget.partition("=")
    only = {"recalibration_samples": 128, "criterion": given.criterion} if given.technique == "prune" else {}
    return SearchOptions(
        technique=given.technique, budget={cost: float(figure)}, policy=policy, trials=10_000, seconds=given.seconds,
        samples=512, score_samples=given.score_samples, **only,
    )  # fmt: skip


def describe(problem: Problem, choice: Choice, test_top1: float) -> dict[str, Any]:
    """What a policy found."""
    winner = problem.evaluate(choice)
    return {
        "trials": len(problem.history), "held_out": winner.score, "divergence": round(winner.divergence, 4),
        "costs": {name: round(share, 5) for name, share in winner.costs.items()}, "test": test_top1, "choice": choice,
    }  # fmt: skip


def finetuned(problem: Problem, choice: Choice, loaded: Loaded, context: Context, test: Any, steps: int) -> float:
    """Test accuracy of a winner after some training steps of 64 images."""
    result = carry_out(problem.subject.steps(choice), loaded.clone(), context)
    options = TrainOptions(
        epochs=1, train_limit=steps * 64, batch_size=64, lr=0.01, keep="last", augment=["crop", "flip"]
    )
    train(result.loaded, options, context)
    return context.metric(result.loaded.module, test).value


if __name__ == "__main__":
    main()
