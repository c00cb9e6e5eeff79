"""Run by torchrun in test_train_distributed: trains a small network with batch norms and saves its weights."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from compresskit.artifact.source import load_model
from compresskit.core import distributed
from compresskit.core.options import TrainOptions
from compresskit.data.dataset import open_data
from compresskit.evaluation.losses import plain_objective
from compresskit.evaluation.metrics import make_metric
from compresskit.training.context import Context
from compresskit.training.loop import train


def main() -> None:
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    loaded = load_model("builtin:digits_cnn", model_args={"width": 8})
    folder = Path(settings["folder"])
    context = Context(
        loaded.clone(),
        open_data("digits", loaded.preprocessing),
        make_metric("top1"),
        folder=folder,
        log=lambda line: print(line, file=sys.stderr),
    )
    calls = 0
    torch.manual_seed(0)
    adapter = torch.nn.Linear(10, 10)

    def objective(module, inputs, targets):
        nonlocal calls
        calls += 1
        if calls == settings.get("kill_at") and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain_objective(0.0, module, inputs, targets) + adapter(module(inputs)).square().mean()

    facts = train(loaded, TrainOptions(**settings["options"]), context, objective=objective, extra_modules=[adapter])
    if distributed.is_main():
        state = {**loaded.module.state_dict(), **{f"adapter.{k}": v for k, v in adapter.state_dict().items()}}
        save_file(state, folder / "weights.safetensors")
        (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
