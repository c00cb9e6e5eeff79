"""Searched architectures beside a hand-shrunk network of the same multiply-accumulates, trained in the same way.

    python benchmarks/search/search_architectures.py [--policies n2n transform nas] [--seeds 0 1 2] [--keep 0.2]
    python benchmarks/search/search_architectures.py --data imagefolder:DIR --model builtin:cifar_resnet20 \
        --weights FILE

The hand-shrunk network is the teacher with one share of channels in every layer (`--keep`). Its multiply-accumulates
are the budget of the searches, so a found network never has more. Networks of n2n and their rival keep the teacher's
weights of what stays; those of transform and nas, and their rival, start from random weights: what was trained in the
search is thrown away. All are then distilled from the teacher by one recipe, with several seeds, and the test split is
read once for each of these trainings. `--report` only writes the table from the rows of earlier runs. A run that was
stopped goes on from what lies in OUT.work.

The default data are the digits with noise, because on clean ones every network of these sizes is near 100 %: 1,000
digits for training and 297 held out for the search's scores, 500 for the test, each with several draws of Gaussian
noise. The teacher (builtin:digits_cnn, 32 filters) is trained on them first.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.search.nas.search import trained_anew
from compresskit.search.nas.session import BATCH, Child, Session
from compresskit.search.nas.space import ChainSpace
from compresskit.search.nas.student import Shrinker, build_student, measured_costs
from compresskit.search.nas.teacher_cache import distillation, remembered_logits
from compresskit.search.options import SearchOptions
from compresskit.search.tables import ARCHITECTURES
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions

NOISY = "noisy-digits"
#: standard deviation of the noise, in units of the brightest pixel
NOISE = 0.25
#: split -> (digits, noisy copies of each)
COPIES = {"train": (1000, 3), "val": (297, 4), "test": (500, 6)}
RESULT = Path(__file__).resolve().parents[1] / "results" / "search_architectures.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin:digits_cnn")
    parser.add_argument("--weights", help="of the model; trained first without them, and kept there")
    parser.add_argument("--data", default=NOISY)
    parser.add_argument("--policies", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the searches")
    parser.add_argument("--final-seeds", nargs="+", type=int, default=[0, 1, 2], help="of the final trainings")
    parser.add_argument("--keep", type=float, default=0.2, help="share of channels that the hand-shrunk network keeps")
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--seconds", type=float, help="limit of each search")
    parser.add_argument("--child-steps", type=int, default=80)
    parser.add_argument("--finalists", type=int, default=4, help="networks that are trained anew before one is chosen")
    parser.add_argument("--finalist-steps", type=int, default=500)
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument("--widths", nargs="+", type=int, default=[3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32])
    parser.add_argument("--epochs", type=float, default=20, help="of each final training")
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
        given.finalists, given.finalist_steps = 2, 40
    torch.set_num_threads(1)
    teacher, context = open_teacher(given)
    memory = remembered_logits(context)
    done = {(row["data"], row["policy"], row["seed"]) for row in read_rows(given.out)}
    for seed in given.seeds:
        for policy in given.policies:
            if (given.data, policy, seed) in done:
                continue
            session, child = searched(teacher, policy, seed, given, context)
            row = {
                "data": given.data, "policy": policy, "seed": seed, "trials": session.trained(),
                "held_out": child.score, "costs": child.costs,
                "network": child.network, "teacher_test": tested(teacher, context, given),
            }  # fmt: skip
            row |= compared(session, child, given, memory)
            with Path(given.out).open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps({key: value for key, value in row.items() if key != "network"}), flush=True)


def open_teacher(given: argparse.Namespace) -> tuple[Loaded, Context]:
    """The teacher with its data; trained here where no weights are given."""
    own = given.data == NOISY
    known = given.weights if given.weights and Path(given.weights).is_file() else None
    teacher = load_model(given.model, weights=known, model_args={"width": 32} if own else None)
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(noisy_digits(Path(folder)) if own else given.data, teacher.preprocessing)
    context = Context(teacher, data, make_metric("top1"), log=lambda line: print(line, flush=True))
    context = replace(context, folder=Path(f"{given.out}.work"))
    if known is None:
        train(teacher, TrainOptions(epochs=15, lr=0.1, batch_size=BATCH), context)
        if given.weights:
            save_file(teacher.module.state_dict(), given.weights)
    return teacher, context


def noisy_digits(folder: Path) -> str:
    """The data string of digits with noise; the same at every call."""
    images, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    arrays, begin = {}, 0
    for split, (count, copies) in COPIES.items():
        chosen = np.tile(order[begin : begin + count], copies)
        begin += count
        clean = (images[chosen] / 16).reshape(-1, 1, 8, 8)
        arrays[f"x_{split}"] = (clean + NOISE * generator.standard_normal(clean.shape)).astype(np.float32)
        arrays[f"y_{split}"] = labels[chosen].astype(np.int64)
    np.savez(folder / "noisy.npz", **arrays)
    return f"npz:{folder / 'noisy.npz'}"


def searched(
    teacher: Loaded, policy: str, seed: int, given: argparse.Namespace, context: Context
) -> tuple[Session, Child]:  # fmt: skip
    """A finished search, and the network that it chose."""
    whole = measured_costs(teacher)
    budget = measured_costs(hand_shrunk(teacher, given.keep, context))["macs"] / whole["macs"]
    only = {} if policy == "n2n" else {"widths": given.widths, "slots": given.slots}
    options = SearchOptions(
        technique="architecture", policy=policy, target_macs=budget, trials=given.trials,
        seconds=given.seconds, child_steps=given.child_steps, child_lr=given.lr, finetune_finalists=given.finalists,
        finetune_steps=given.finalist_steps, **only,
    )  # fmt: skip
    context = replace(context, seed=seed, folder=context.folder / f"{policy}-{seed}")
    session = Session(teacher.clone(), whole, options, context)
    ARCHITECTURES.load(policy)(session)
    return session, trained_anew(session)[0]


def compared(session: Session, child: Child, given: argparse.Namespace, memory: Any) -> dict[str, Any]:
    """Test accuracies of the found and the hand-shrunk network after the final recipe, one for each seed."""
    rows: dict[str, list[float]] = {"found": [], "hand": []}
    for seed in given.final_seeds:
        context = replace(session.context, seed=seed, log=lambda line: None)
        hand = hand_shrunk(session.teacher, given.keep, context)
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
    costs = measured_costs(hand)
    return {**rows, **{f"hand_{name}": costs[name] / session.whole[name] for name in ("macs", "params")}}


def hand_shrunk(teacher: Loaded, keep: float, context: Context) -> Loaded:
    """The teacher with one share of channels everywhere."""
    shrinker = Shrinker(teacher, context)
    return shrinker.build(shrinker.counts([keep] * len(shrinker.groups)))


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
        "`python benchmarks/search/search_architectures.py`; what is compared stands at the top of that file.",
        "Accuracy is top-1 on the test split in percent, mean and standard deviation over all searches and final",
        "trainings;",
        "the difference is taken between networks that were trained with the same seed.", "",
        f"{given.trials} proposals of {given.child_steps} training steps in each search, {given.finalists} finalists "
        f"of {given.finalist_steps} steps, final trainings of {given.epochs:g} epochs.", "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, one thread.", "",
        "| data | policy | searches x trainings | MACs kept | hand-shrunk MACs "
        "| parameters kept | hand-shrunk parameters | found | hand-shrunk | difference | teacher |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for data, policy in dict.fromkeys((row["data"], row["policy"]) for row in rows):
        lines.append(_line([row for row in rows if (row["data"], row["policy"]) == (data, policy)]))
    return "\n".join(lines) + "\n"


def _line(own: list[dict[str, Any]]) -> str:
    found, hand = ([value for row in own for value in row[name]] for name in ("found", "hand"))
    gaps = [a - b for a, b in zip(found, hand, strict=True)]
    cells = [
        own[0]["data"].partition(":")[0], own[0]["policy"], f"{len(own)} x {len(own[0]['found'])}",
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
