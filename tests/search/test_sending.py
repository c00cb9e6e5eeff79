"""What Ray workers are sent: the subject with its context, without what only the searching process can use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from compresskit.core.types import call
from compresskit.search.options import SearchOptions
from compresskit.search.problem.worker_pool import _packed
from compresskit.search.search import open_problem

cloudpickle = pytest.importorskip("cloudpickle", reason="what Ray brings with it is the same")


def test_a_search_that_logs_to_a_terminal_can_be_sent(opened, tmp_path):
    loaded, context = opened
    console = Console(stderr=True)  # holds locks, which no process can send
    context = replace(context, log=lambda line: console.print(line), folder=tmp_path)
    options = SearchOptions(target_macs=0.5, samples=64, probe_samples=64, score_samples=64)
    problem = open_problem(loaded, options, context)
    subject, rater = cloudpickle.loads(_packed((problem.subject, problem.rater), cloudpickle))
    here, there = problem.subject.build(problem.smallest()), subject.build(problem.smallest())
    assert torch.equal(call(here, loaded.example), call(there, loaded.example))
    assert rater.rate(there) == problem.rater.rate(here)
    assert subject._context.folder is None and subject._context.log("nothing happens") is None
