"""Search policies side by side under equal time: channels of ResNet-56 at half the MACs, bits at half the size, or
channels, ranks and bits together beside channels alone and bits alone.

    python benchmarks/search/search_policies.py --cifar DIR --weights FILE --seconds 120
    python benchmarks/search/search_policies.py --technique quantize --bits 4 --cifar DIR --weights FILE --seconds 60
    python benchmarks/search/search_policies.py --technique mixed --bytes 0.1 --cifar DIR --weights FILE --seconds 60
    python benchmarks/search/search_policies.py --technique mixed --macs 0.5 --cifar DIR --weights FILE --seconds 60
    python benchmarks/search/search_policies.py --technique prune --bytes 0.1 --train-images 0 --cifar DIR \
        --weights FILE

Time is the process's own processor time on one thread, so that other work on the machine does not matter; every
policy gets the same. Ranking channels, taking second moments and rounding every layer to every width is common to all
and not counted; probes are. Candidates are scored on held-out training images; the test images are read for each
policy's winner only. Winners of --refit-policies are also made as the search's recipe makes them, layers refitted one
after the other, and then trained for a short time; both are read as well. Finished rows are kept in a file and
not run again; all of its rows go into the results.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import compresskit
from compresskit.artifact.source import load_model
from compresskit.core.timings.machine import machine
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.search.carrying_out import carry_out
from compresskit.search.options import SearchOptions
from compresskit.search.problem.search_space import Problem
from compresskit.search.problem.subject import Choice
from compresskit.search.search import problem_of, run_policy
from compresskit.search.tables import SUBJECTS
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions

POLICIES = {
    "prune": ["uniform", "random", "greedy", "evolution", "amc", "solve", "auto"],
    "quantize": ["uniform", "haq", "solve"],
    "mixed": ["uniform", "evolution", "amc", "solve", "auto"],
}
#: technique -> the search's options that are not its defaults
OF_TECHNIQUE = {
    "prune": {"criterion": "reconstruction", "recalibration_samples": 256},
    "quantize": {},
    "mixed": {"criterion": "reconstruction", "recalibration_samples": 256},
}
#: whose winners are made as recipes make them, by default
REFITTED = ["amc", "auto"]
#: technique -> what its tables are headed with
WHAT = {"prune": "Channels", "quantize": "Bits", "mixed": "Channels, ranks and bits"}
#: what a row was run with; rows that agree in all of it make one table
SETTINGS = (
    "technique", "model", "budget", "seconds", "samples", "score_samples", "test_samples", "train_images",
    "train_epochs",
)  # fmt: skip
RESULTS = Path(__file__).resolve().parents[1] / "results" / "search_policies.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:cifar_resnet56")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cifar", required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--technique", default="prune", choices=list(POLICIES))
    parser.add_argument("--policies", nargs="+", help="default: all that fit the technique")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--macs", type=float, help="share of the MACs that stays; prune: 0.5 by default")
    parser.add_argument("--bits", type=int, default=4, help="quantize: the bytes of this many bits in every layer")
    parser.add_argument("--bytes", type=float, help="share of the stored bytes instead; mixed: 0.1 by default")
    parser.add_argument("--seconds", type=float, default=120, help="processor time of each policy")
    parser.add_argument("--score-samples", type=int, default=256)
    parser.add_argument("--samples", type=int, default=1024, help="calibration images")
    parser.add_argument("--test-samples", type=int, default=2000)
    parser.add_argument("--train-images", type=int, default=5000, help="images of an epoch; 0 trains nothing")
    parser.add_argument("--train-epochs", type=int, default=2)
    parser.add_argument("--refit-policies", nargs="*", default=REFITTED, help="whose winners")
    parser.add_argument("--runs", type=Path, default=Path("search_policies.jsonl"), help="where finished rows are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, a few seconds, results to the terminal only")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.seconds, given.test_samples, given.train_images = [0], 10, 256, 256
        given.runs, given.results = Path("search_policies_quick.jsonl"), None
    if given.technique == "quantize":
        given.train_images = 0
    if given.technique == "mixed" and not given.macs:
        given.bytes = given.bytes or 0.1
    if given.technique == "prune":
        given.macs = given.macs or 0.5
    given.policies = given.policies or POLICIES[given.technique]
    if given.bytes:
        given.budget = f"bytes={given.bytes:g}"
    else:
        given.budget = f"macs={given.macs:g}" if given.macs else f"bits={given.bits}"
    return given


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    loaded = load_model(given.model, weights=given.weights)
    data = open_data(f"imagefolder:{given.cifar}", loaded.preprocessing)
    metric = make_metric("top1", loaded.module)
    test = data.batches("test", batch_size=64, limit=given.test_samples)
    if not finished(given, "original", 0):
        keep(given, {"policy": "original", "seed": 0, "test": metric(loaded.module, test).value})
    for seed in given.seeds:
        context, subject = Context(loaded.clone(), data, metric, seed=seed), None
        for policy in given.policies:
            if finished(given, policy, seed):
                continue
            options = options_of(given, policy)
            subject = subject or SUBJECTS.load(given.technique)(loaded, options, context)
            problem = problem_of(
                subject, loaded, options, context, clock=time.process_time, limits=limits_of(given, subject)
            )  # fmt: skip
            choice = run_policy(policy, problem, seed, options)
            row = {"policy": policy, "seed": seed, **describe(problem, choice)}
            row["test"] = metric(subject.build(choice), test).value
            if policy in given.refit_policies:
                result = carry_out(subject.steps(choice), loaded.clone(), context)
                row["refitted"] = metric(result.loaded.module, test).value
                if given.train_images:
                    row["trained"] = trained(given, result.loaded, context, test)
            keep(given, row)
            write(given)


def options_of(given: argparse.Namespace, policy: str) -> SearchOptions:
    """The search that is benchmarked."""
    bounds_macs = given.budget.startswith("macs")
    budget = {"target_macs": given.macs} if bounds_macs else {"target_bytes": given.bytes or 0.5}
    return SearchOptions(
        technique=given.technique, **budget, policy=policy, trials=100_000, seconds=given.seconds,
        samples=given.samples, score_samples=given.score_samples, **OF_TECHNIQUE[given.technique],
    )  # fmt: skip


def limits_of(given: argparse.Namespace, subject: Any) -> dict[str, float]:
    """The budget in absolute figures; for bits, what the model takes with that width in every layer."""
    if given.bytes:
        return {"bytes": given.bytes * subject.whole_costs()["bytes"]}
    if given.macs:
        return {"macs": given.macs * subject.whole_costs()["macs"]}
    levels = [place.labels.index(f"{given.bits} bits") for place in subject.places]
    return {"bytes": subject.costs(tuple(levels))["bytes"]}


def describe(problem: Problem, choice: Choice) -> dict[str, Any]:
    """What a policy found."""
    spent = problem.elapsed
    winner = problem.evaluate(choice)
    return {
        "spent": round(spent, 1), "trials": len(problem.history), "held_out": winner.score,
        "divergence": round(winner.divergence, 4), "costs": {name: round(v, 5) for name, v in winner.costs.items()},
        "choice": list(choice),
    }  # fmt: skip


def trained(given: argparse.Namespace, loaded: Loaded, context: Context, test: Any) -> float:
    """Test accuracy of a winner after a short training, on the images as they are."""
    options = TrainOptions(
        epochs=given.train_epochs, train_limit=given.train_images, batch_size=64, lr=0.005, keep="last"
    )
    train(loaded, options, context)
    return context.metric(loaded.module, test).value


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What a row is run with."""
    return {name: getattr(given, name) for name in SETTINGS}


def kept_rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of the file."""
    return [json.loads(line) for line in given.runs.read_text().splitlines()] if given.runs.is_file() else []


def finished(given: argparse.Namespace, policy: str, seed: int) -> bool:
    """Whether the row is in the file."""
    wanted = {**settings(given), "policy": policy, "seed": seed}
    return any(all(row.get(name) == value for name, value in wanted.items()) for row in kept_rows(given))


def keep(given: argparse.Namespace, row: dict[str, Any]) -> None:
    """Add a row to the file."""
    row = {**settings(given), **row, "command": command(given), "versions": versions()}
    with given.runs.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print({key: value for key, value in row.items() if key not in (*SETTINGS, "choice", "versions")}, flush=True)


def command(given: argparse.Namespace) -> str:
    """The command as a reader would give it."""
    name, _, value = given.budget.partition("=")
    amount = f"--{name} {value}"
    training = f" --train-images {given.train_images}" if given.technique != "quantize" else ""
    training += f" --train-epochs {given.train_epochs}" if given.train_images else ""
    refitted = "" if given.refit_policies == REFITTED else f" --refit-policies {' '.join(given.refit_policies)}"
    return (
        f"python benchmarks/search/search_policies.py --technique {given.technique} --model {given.model} "
        f"--weights {Path(given.weights).name} --cifar DIR {amount} --seconds {given.seconds:g} "
        f"--samples {given.samples} --score-samples {given.score_samples} "
        f"--test-samples {given.test_samples}{training}{refitted}"
    )


def versions() -> str:
    """What the figures were taken with."""
    import optuna

    return (
        f"compresskit {compresskit.__version__}, torch {torch.__version__}, optuna {optuna.__version__}, "
        f"Python {platform.python_version()}, {machine()['processor']}, one thread"
    )


def write(given: argparse.Namespace) -> None:
    """Write all tables."""
    if given.results is None:
        return
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in kept_rows(given):
        groups.setdefault(tuple(row[name] for name in SETTINGS), []).append(row)
    parts = ["# Search policies", INTRODUCTION, *(section(rows) for rows in groups.values())]
    given.results.write_text("\n\n".join(parts) + "\n")


INTRODUCTION = """Every policy gets the same processor time on one thread. A candidate is scored on held-out training
images (`held out`), of which the best is taken; `test` is the winner's top-1 on the first test images, read once.
Figures are means over seeds, with the smallest and largest in brackets. A search of a minute or two compares dozens of
candidates, not the hundreds of episodes of the AMC and HAQ papers."""


def section(rows: list[dict[str, Any]]) -> str:
    """One table: a row a policy."""
    first, last = rows[0], rows[-1]
    original = next(row["test"] for row in rows if row["policy"] == "original")
    lines = [
        f"## {WHAT[first['technique']]}: {first['model']}, {first['budget']}, {first['seconds']:g} s a policy", "",
        f"    {last['command']}", "", f"{last['versions']}. The original has {original:.4f} on {first['test_samples']} "
        f"test images; candidates are scored on {first['score_samples']}.",
    ]  # fmt: skip
    if first["train_images"]:
        lines += [f"`trained` is after {first['train_epochs']} epochs of {first['train_images']:,} images."]
    names = ["held_out", "test", "refitted", *(["trained"] if first["train_images"] else [])]
    cost = "macs" if first["budget"].startswith("macs") else "bytes"
    heads = ["policy", "seeds", "trials", "seconds", f"{cost} kept", *(name.replace("_", " ") for name in names)]
    lines += ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for policy in dict.fromkeys(row["policy"] for row in rows if row["policy"] != "original"):
        own = [row for row in rows if row["policy"] == policy]
        cells = [policy, str(len(own)), f"{statistics.mean(row['trials'] for row in own):.0f}"]
        cells += [f"{statistics.mean(row['spent'] for row in own):.0f}", spread([row["costs"][cost] for row in own])]
        cells += [spread([row[name] for row in own if name in row]) for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The mean, and the range where there are several; nothing where there is none."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.4f}"
    return mean if min(values) == max(values) else f"{mean} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
