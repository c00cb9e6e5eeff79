"""Searched architectures beside a hand-shrunk network of the same multiply-accumulates, trained in the same way.

    python benchmarks/search_architectures.py [--policies n2n transform nas] [--seeds 0 1 2] [--budget 0.05]
    python benchmarks/search_architectures.py --data imagefolder:DIR --model builtin:cifar_resnet20 --weights FILE

On digits the teacher is trained first (builtin:digits_cnn, 32 filters). Each policy searches with each seed. The hand-
shrunk network is the teacher with the same share of channels in every layer, at least as many MACs as the found one.
Networks of n2n and their rival keep the teacher's weights of what stays; those of transform and nas, and their rival,
start from random weights: what was trained in the search is thrown away. All are then distilled from the teacher by one
recipe, with several seeds, and the test split is read once for each of these trainings. `--report` only writes the
table from the rows of earlier runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compresskit.core.data import open_data
from compresskit.core.metrics import make_metric
from compresskit.core.options import TrainOptions
from compresskit.core.source import load_model
from compresskit.core.train import train
from compresskit.core.types import Context, Loaded
from compresskit.search.architectures.lessons import distillation, remembered_logits
from compresskit.search.architectures.session import BATCH, Session
from compresskit.search.architectures.space import ChainSpace
from compresskit.search.architectures.student import Shrinker, build_student, measured_costs
from compresskit.search.options import SearchOptions
from compresskit.search.tables import ARCHITECTURES

RESULT = Path(__file__).parent / "results" / "search_architectures.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:digits_cnn")
    parser.add_argument("--weights", help="of the model; without them it is trained first")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--policies", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the searches")
    parser.add_argument("--final-seeds", nargs="+", type=int, default=[0, 1, 2], help="of the final trainings")
    parser.add_argument("--budget", type=float, default=0.05, help="share of the model's MACs")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, help="limit of each search")
    parser.add_argument("--child-steps", type=int, default=80)
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument("--widths", nargs="+", type=int, default=[4, 6, 8, 12, 16, 24, 32])
    parser.add_argument("--epochs", type=float, default=30, help="of each final training")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--test-samples", type=int)
    parser.add_argument("--out", default="search_architectures.jsonl")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed, few and short trainings")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.report:
        RESULT.write_text(table(read_rows(given.out), given))
        return
    if given.quick:
        given.seeds, given.final_seeds, given.trials, given.child_steps, given.epochs = [0], [0], 6, 20, 3
    torch.set_num_threads(1)
    teacher, context = open_teacher(given)
    memory = remembered_logits(context)
    done = {(row["data"], row["policy"], row["seed"]) for row in read_rows(given.out)}
    for seed in given.seeds:
        for policy in given.policies:
            if (given.data, policy, seed) in done:
                continue
            begin = time.process_time()
            session = searched(teacher, policy, seed, given, context)
            child, _ = session.winner()
            row = {
                "data": given.data, "policy": policy, "seed": seed, "trials": session.trained(),
                "cpu_seconds": round(time.process_time() - begin, 1), "held_out": child.score, "costs": child.costs,
                "network": child.network, "teacher_test": tested(teacher, context, given),
            }  # fmt: skip
            row |= compared(session, child, given, memory)
            with Path(given.out).open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps({key: value for key, value in row.items() if key != "network"}), flush=True)


def open_teacher(given: argparse.Namespace) -> tuple[Loaded, Context]:
    """The teacher with its data; trained here where no weights are given."""
    digits = given.data == "digits" and not given.weights
    teacher = load_model(given.model, weights=given.weights, model_args={"width": 32} if digits else None)
    data = open_data(given.data, teacher.preprocessing)
    context = Context(teacher, data, make_metric("top1"), log=lambda line: None)
    if digits:
        train(teacher, TrainOptions(epochs=20, lr=0.1, batch_size=BATCH), context)
    return teacher, context


def searched(teacher: Loaded, policy: str, seed: int, given: argparse.Namespace, context: Context) -> Session:
    """A finished search."""
    only = {} if policy == "n2n" else {"widths": given.widths, "slots": given.slots}
    options = SearchOptions(
        technique="architecture", policy=policy, budget={"macs": given.budget}, trials=given.trials,
        seconds=given.seconds, child_steps=given.child_steps, child_lr=given.lr, **only,
    )  # fmt: skip
    session = Session(teacher.clone(), measured_costs(teacher), options, replace(context, seed=seed))
    ARCHITECTURES.load(policy)(session)
    return session


def compared(session: Session, child: Any, given: argparse.Namespace, memory: Any) -> dict[str, Any]:
    """Test accuracies of the found and the hand-shrunk network after the final recipe, one for each seed."""
    macs = child.costs["macs"] * session.whole["macs"]
    rows: dict[str, list[float]] = {"found": [], "hand": []}
    for seed in given.final_seeds:
        context = replace(session.context, seed=seed)
        hand = hand_shrunk(session.teacher, macs, context)
        if session.options.policy == "n2n":
            found = build_student(session.teacher, child.network, context)
        else:
            found = ChainSpace(session.teacher).load(child.network, seed)
            fresh(hand, seed)
        for name, network in (("found", found), ("hand", hand)):
            options = TrainOptions(epochs=given.epochs, lr=given.lr, batch_size=BATCH, keep="last")
            quiet = replace(context, metric=None)
            train(network, options, quiet, objective=distillation(session.teacher, memory, context))
            rows[name].append(tested(network, context, given))
    shares = {"hand_macs": measured_costs(hand)["macs"] / session.whole["macs"]}
    return {**rows, **shares, "hand_params": measured_costs(hand)["params"] / session.whole["params"]}


def hand_shrunk(teacher: Loaded, macs: float, context: Context) -> Loaded:
    """The teacher with one share of channels everywhere: the smallest that has at least these MACs."""
    shrinker = Shrinker(teacher, context)
    for percent in range(1, 1001):
        counts = shrinker.counts([percent / 1000] * len(shrinker.groups))
        if shrinker.costs(counts)["macs"] >= macs:
            break
    return shrinker.build(counts)


def fresh(loaded: Loaded, seed: int) -> None:
    """Random weights in every layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in loaded.module.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()


def tested(loaded: Loaded, context: Context, given: argparse.Namespace) -> float:
    """Accuracy on the test split."""
    batches = context.data.batches("test", batch_size=256, limit=given.test_samples)
    return make_metric("top1")(loaded.module, batches).value


def read_rows(path: str) -> list[dict[str, Any]]:
    """Rows of earlier runs."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).is_file() else []


def table(rows: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The results as a page."""
    lines = [
        "# Searched architectures beside hand-shrunk ones", "",
        "`python benchmarks/search_architectures.py`; what is compared stands at the top of that file. Accuracy is",
        "top-1 on the test split in percent, mean and standard deviation over all searches and final trainings.", "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread.", "",
        "| data | policy | searches x trainings | networks tried | CPU seconds a search | MACs kept | hand-shrunk MACs "
        "| parameters kept | hand-shrunk parameters | found | hand-shrunk | difference | teacher |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for data, policy in dict.fromkeys((row["data"], row["policy"]) for row in rows):
        lines.append(_line([row for row in rows if (row["data"], row["policy"]) == (data, policy)]))
    return "\n".join(lines) + "\n"


def _line(own: list[dict[str, Any]]) -> str:
    found, hand = ([value for row in own for value in row[name]] for name in ("found", "hand"))
    gaps = [a - b for a, b in zip(found, hand, strict=True)]
    cells = [
        own[0]["data"].partition(":")[0], own[0]["policy"], f"{len(own)} x {len(own[0]['found'])}",
        f"{_mean(row['trials'] for row in own):.0f}", f"{_mean(row['cpu_seconds'] for row in own):.0f}",
        _percent(row["costs"]["macs"] for row in own), _percent(row["hand_macs"] for row in own),
        _percent(row["costs"]["params"] for row in own), _percent(row["hand_params"] for row in own),
        _spread(found), _spread(hand), _spread(gaps), f"{own[0]['teacher_test']:.2%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def _percent(values: Iterable[float]) -> str:
    return f"{_mean(values):.2%}"


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


if __name__ == "__main__":
    main()
