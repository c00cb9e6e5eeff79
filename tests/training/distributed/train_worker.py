"""Run by test_train_distributed: trains a small network with batch norms, in one process or in several, and saves it.

The processes are started by the agent of torchrun and forked from this one, which has imported everything: a start of
Python for each would take longer than the training.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import uuid
from pathlib import Path

import sklearn.datasets  # noqa: F401 (imported before the fork, as are the next two)
import torch
import torch._dynamo
import torch.distributed.fsdp
from safetensors.torch import save_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from compresskit.artifact.source import load_model
from compresskit.core import distributed
from compresskit.data.dataset import open_data
from compresskit.evaluation.losses import plain_objective
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions


def run_in_one(folder: str, options: dict) -> None:
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder, options, None))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"training in one process ended with {process.exitcode}")


def run_in_two(folder: str, options: dict, kill_at: int | None) -> bool:
    """Whether all processes ended well.

    Args:
        folder: gets the weights, the facts and the checkpoints.
        options: of training.
        kill_at: the batch at which the second process kills itself.
    """
    config = LaunchConfig(
        1, 1, 2, run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork",
    )  # fmt: skip
    try:
        elastic_launch(config, work)(folder, options, kill_at)
    except ChildFailedError:
        return False
    return True


def work(folder: str, options: dict, kill_at: int | None) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    loaded = load_model("builtin:digits_cnn", model_args={"width": 8})
    context = Context(
        loaded.clone(),
        open_data("digits", loaded.preprocessing),
        make_metric("top1"),
        folder=Path(folder),
        log=lambda line: print(line, file=sys.stderr),
    )
    calls = 0
    torch.manual_seed(0)
    adapter = torch.nn.Linear(10, 10)

    def objective(module, inputs, targets):
        nonlocal calls
        calls += 1
        if calls == kill_at and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain_objective(0.0, module, inputs, targets) + adapter(module(inputs)).square().mean()

    facts = train(loaded, TrainOptions(**options), context, objective=objective, extra_modules=[adapter])
    if distributed.is_main():
        state = {**loaded.module.state_dict(), **{f"adapter.{k}": v for k, v in adapter.state_dict().items()}}
        save_file(state, Path(folder) / "weights.safetensors")
        (Path(folder) / "facts.json").write_text(json.dumps(facts))


def main() -> None:
    """Train in one process, then in two of which one is killed, then in two that resume; print what became of those."""
    settings = json.loads(sys.argv[1])
    one, two, options = settings["one"], settings["two"], settings["options"]
    run_in_one(one, options)
    killed = run_in_two(two, {**options, **settings["in_two"]}, settings["kill_at"])
    left = sorted(path.name for path in Path(two).iterdir())
    resumed = run_in_two(two, {**options, **settings["in_two"]}, None)
    print(json.dumps({"killed_ended_well": killed, "left": left, "resumed_ended_well": resumed}))


if __name__ == "__main__":
    main()
