"""What a search would refuse only later is found out before it."""

from __future__ import annotations

import sqlite3

import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.evaluation.metrics import make_metric
from compresskit.search.check import check
from compresskit.search.options import SearchOptions
from compresskit.training.context import Context


def refusal(loaded: Loaded | None = None, metric: str = "top1", **options) -> str:
    loaded = loaded or load_model("builtin:digits_cnn_small")
    context = Context(loaded, metric=make_metric(metric, loaded.module))
    with pytest.raises(InputError) as refused:
        check(loaded, SearchOptions.model_validate({"target_macs": 0.5, **options}), context)
    return str(refused.value)


def test_architectures_need_images():
    flat = Loaded(nn.Linear(4, 2), {"kind": "builtin"}, torch.zeros(1, 4))
    assert refusal(flat, technique="architecture", policy="nas").endswith("make image classifiers")


@pytest.mark.integration
def test_a_storage_is_looked_at_and_not_made(tmp_path):
    pytest.importorskip("optuna")
    with sqlite3.connect(tmp_path / "good.db") as connection:
        connection.execute("create table trials (number)")
    (tmp_path / "bad.db").write_text("this is no database, and long enough to be seen as none")
    said = refusal(policy="tpe", storage=f"sqlite:///{tmp_path}/bad.db")
    assert "bad.db' does not open: file is not a database" in said
    assert "folder" in refusal(policy="tpe", storage=f"sqlite:///{tmp_path}/missing/new.db")
    assert "does not open" in refusal(policy="tpe", storage="study.db")
    loaded = load_model("builtin:digits_cnn_small")
    for name in ("good.db", "new.db"):
        options = {"target_macs": 0.5, "policy": "tpe", "storage": f"sqlite:///{tmp_path}/{name}"}
        check(loaded, SearchOptions.model_validate(options), Context(loaded))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.db", "good.db"]
