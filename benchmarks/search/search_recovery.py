"""Winners of `search_policies.py` after two epochs: each is made again from its row, refitted, distilled and tested.

    python benchmarks/search/search_recovery.py --cifar DIR --weights FILE --runs search_policies.jsonl

Every winner gets the same recipe: the original's logits (Hinton's loss, the logits kept on disk between epochs and
winners), the training images as they are, the last weights. The test images are read before the first epoch and after
the last. Finished rows are kept in a file and not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from search_policies import SETTINGS, options_of, versions

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.distillation.distill import distill
from compresskit.distillation.options import DistillOptions
from compresskit.evaluation.metrics import make_metric
from compresskit.search.carrying_out import carry_out
from compresskit.search.tables import SUBJECTS
from compresskit.training.context import Context

RESULTS = Path(__file__).resolve().parents[1] / "results" / "search_recovery.md"
#: what a row is trained with; rows that agree in it make one table
TRAINING = ("loss", "epochs", "lr", "batch_size", "images", "precision", "test_images")
#: what a run finds
FOUND = ("original", "refitted", "trained", "training_seconds")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--weights", required=True, help="of the original model")
    parser.add_argument("--runs", type=Path, required=True, help="rows of search_policies.py")
    parser.add_argument("--policies", nargs="+", help="default: all in the rows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--loss", nargs="+", default=["kd"])
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16"], help="of convolutions while training"
    )
    parser.add_argument("--images", type=int, help="use only this many training images")
    parser.add_argument("--test-images", type=int, nargs="+", default=[2000, 10000], help="the first so many")
    parser.add_argument("--logits", default="search_recovery_logits", help="folder for the original's logits")
    parser.add_argument("--trained", type=Path, default=Path("search_recovery.jsonl"), help="where rows are kept")
    parser.add_argument("--report", action="store_true", help="only write the table from the rows that are there")
    parser.add_argument("--quick", action="store_true", help="500 images, one epoch, results to the terminal only")
    given = parser.parse_args()
    if given.quick:
        given.images, given.epochs, given.test_images, given.seeds = 500, 1, [500], given.seeds[:1]
        given.trained = Path("search_recovery_quick.jsonl")
    return given


def main() -> None:
    given = arguments()
    if given.report:
        RESULTS.write_text(table(read(given.trained)))
        return
    torch.set_num_threads(1)
    winners = [row for row in read(given.runs) if row["policy"] != "original" and row["technique"] == "prune"]
    for row in {(row["policy"], row["seed"]): row for row in winners}.values():
        chosen = row["seed"] in given.seeds and row["policy"] in (given.policies or [row["policy"]])
        if chosen and not finished(given, row, "policy"):
            twin = finished(given, row)  # another policy's that made the same choice: the run would be the same
            keep(given, row, {name: twin[name] for name in FOUND} if twin else recovered(given, row))


def recovered(given: argparse.Namespace, row: dict[str, Any]) -> dict[str, Any]:
    """Test accuracies of a winner before and after training."""
    original = load_model(row["model"], weights=given.weights)
    data = open_data(f"imagefolder:{given.cifar}", original.preprocessing)
    metric = make_metric("top1", original.module)

    def tested(loaded: Loaded) -> list[float]:
        batches = (data.batches("test", batch_size=250, limit=limit) for limit in given.test_images)
        return [metric(loaded.module, own).value for own in batches]

    context = Context(original.clone(), data, metric, seed=row["seed"])
    winner = winner_of(row, original, context)
    result = {"original": tested(original), "refitted": tested(winner)}
    winner.module.to(memory_format=torch.channels_last)
    options = DistillOptions(
        loss=given.loss, epochs=given.epochs, lr=given.lr, batch_size=given.batch_size, train_limit=given.images,
        keep="last", cache=given.logits, precision=given.precision,
    )  # fmt: skip
    began = time.process_time()
    trained = distill(winner, options, Context(original, data, None, seed=row["seed"])).loaded
    return {**result, "trained": tested(trained), "training_seconds": round(time.process_time() - began)}


def winner_of(row: dict[str, Any], original: Loaded, context: Context) -> Loaded:
    """The model that a row's choice stands for, as the search's recipe makes it."""
    searched = argparse.Namespace(**{name: row[name] for name in SETTINGS}, bytes=None)
    searched.macs = float(row["budget"].partition("=")[2])
    subject = SUBJECTS.load(row["technique"])(original, options_of(searched, row["policy"]), context)
    return carry_out(subject.steps(tuple(row["choice"])), original.clone(), context).loaded


def training(given: argparse.Namespace) -> dict[str, Any]:
    """What a row is trained with."""
    return {name: getattr(given, name) for name in TRAINING}


def finished(given: argparse.Namespace, row: dict[str, Any], *also: str) -> dict[str, Any] | None:
    """A row of the file with the same training, seed and choice, and what else is named."""
    wanted = {**training(given), **{name: row[name] for name in ("seed", "choice", *also)}}
    rows = read(given.trained)
    return next((done for done in rows if all(done.get(name) == value for name, value in wanted.items())), None)


def keep(given: argparse.Namespace, row: dict[str, Any], found: dict[str, Any]) -> None:
    """Add a row to the file."""
    own = {name: row[name] for name in ("model", "budget", "seconds", "policy", "seed", "choice")}
    whole = {**training(given), **own, "macs_kept": row["costs"]["macs"], **found, "versions": versions()}
    with given.trained.open("a") as file:
        file.write(json.dumps(whole) + "\n")
    print({name: value for name, value in whole.items() if name not in ("choice", "versions")}, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a page: a table for each recipe, a row a policy."""
    parts = ["# Winners of the search policies after training", INTRODUCTION]
    for recipe in dict.fromkeys(tuple(json.dumps(row[name]) for name in TRAINING) for row in rows):
        parts.append(section([row for row in rows if tuple(json.dumps(row[name]) for name in TRAINING) == recipe]))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """`python benchmarks/search/search_recovery.py`; what is done stands at the top of that file. The
winners are those of [search_policies.md](search_policies.md). Figures are top-1 in percent, means over seeds with the
smallest and largest in brackets."""


def section(rows: list[dict[str, Any]]) -> str:
    """One recipe's table."""
    first = rows[0]
    images = f"{first['images']:,}" if first["images"] else "all"
    original = " and ".join(
        f"{score:.2%} on the first {count:,}"
        for score, count in zip(first["original"], first["test_images"], strict=True)
    )
    lines = [
        f"## {first['model']}, {first['budget']}: {' and '.join(first['loss'])}, {first['epochs']:g} epochs", "",
        f"{images} training images, batch {first['batch_size']}, peak rate {first['lr']:g}, {first['precision']}; "
        f"{first['versions']}.",
        f"The original has {original} test images.", "",
    ]  # fmt: skip
    heads = [f"{name}, {count:,} images" for count in first["test_images"] for name in ("untrained", "trained")]
    lines += [f"| policy | seeds | MACs kept | {' | '.join(heads)} | lost |", f"|{' --- |' * (4 + len(heads))}"]
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        cells = [policy, str(len(own)), f"{statistics.mean(row['macs_kept'] for row in own):.4f}"]
        for place in range(len(first["test_images"])):
            cells += [spread([row[name][place] for row in own]) for name in ("refitted", "trained")]
        cells.append(spread([row["original"][-1] - row["trained"][-1] for row in own]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """The mean in percent, and the range where there are several."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if min(values) == max(values) else f"{mean} ({100 * min(values):.2f} to {100 * max(values):.2f})"


if __name__ == "__main__":
    main()
