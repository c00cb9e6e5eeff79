"""How amounts are written and read, and what the table of costs promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import compresskit
from compresskit.core.costs import Amount, cost_of, figure_key, parse, read_amount

ROOT = Path(compresskit.__file__).parent
#: where a cost's word stands for something else: file -> the words
OTHER_MEANINGS = {
    "core/costs.py": {"macs", "params", "bytes", "latency"},  # the rows themselves
    "core/cost_rows.py": {"macs", "bytes", "latency"},  # what messages call them, in the rows themselves
    "analysis/measure/macs.py": {"params"},  # an argument of aten::_lstm
    "data/text/tokenizers.py": {"bytes"},  # the name of the tokenizer of bytes
    "decomposition/explain.py": {"macs", "params"},  # columns of the report's table of layers
    "export/integers/layer_table.py": {"macs"},  # a column of the table of layers
    "export/lowering.py": {"macs"},  # a fact of the report
    "model/checkpoints/matching.py": {"params"},  # a key of checkpoint files
    "pipeline/inspection/bench_plot.py": {"latency"},  # a column of the rows of `bench`, as in the next two
    "pipeline/inspection/bench_table.py": {"latency"},
    "pipeline/inspection/benching.py": {"latency"},
    "pipeline/inspection/comparing.py": {"macs"},  # a key of the figures of a report
    "pipeline/inspection/looking.py": {"macs", "bytes"},  # columns of the table of layers that inspect prints
    "pipeline/reference/outputs.py": {"macs", "bytes", "latency"},  # columns of what inspect and bench print
    "quantization/mixed_precision/allocation.py": {"bytes"},  # the unit in a message
    "training/distributed/fsdp.py": {"params"},  # a key of torch's parameter groups
    "training/loop.py": {"params"},
    "training/optim.py": {"params"},
}


@pytest.mark.integration
def test_no_cost_is_named_outside_its_row():
    words = {"macs", "params", "bytes", "latency"}
    stray = {}
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        found = words.intersection(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        stray[path.relative_to(ROOT).as_posix()] = found - OTHER_MEANINGS.get(path.relative_to(ROOT).as_posix(), set())
    assert len(stray) > 300
    assert {path: found for path, found in stray.items() if found} == {}


@pytest.mark.parametrize(
    ("name", "given", "amount", "kept"),
    [
        ("macs", 0.5, Amount(0.5, True), 0.5),
        ("macs", "50%", Amount(0.5, True), 0.5),
        ("macs", " 2.5e6 ", Amount(2.5e6, False), 2_500_000),
        ("macs", "2M", Amount(2e6, False), 2_000_000),
        ("params", 1000, Amount(1000, False), 1000),
        ("bytes", "1 MB", Amount(1e6, False), 1_000_000),
        ("bytes", "1e3kB", Amount(1e6, False), 1_000_000),
        ("bytes", 60000, Amount(60000, False), 60000),
        ("bytes", 0.25, Amount(0.25, True), 0.25),
        ("latency", "0.5 ms", Amount(0.5, False), "0.5 ms"),  # a share would be half
        ("latency", "500us", Amount(0.5, False), "0.5 ms"),
        ("latency", "2s", Amount(2000, False), "2000 ms"),
        ("memory", "3KB", Amount(3000, False), 3000),
        ("energy", "2 mJ", Amount(2000, False), "2000 uJ"),
    ],
)
def test_an_amount_means_the_same_before_and_after_it_is_kept(name, given, amount, kept):
    assert parse("x", name, given) == pytest.approx(amount)
    assert read_amount("x", name, given) == kept
    assert parse("x", name, kept) == pytest.approx(amount)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("bytes", "1 XB", "unit 'XB' in '1 XB' does not fit; write %, B, KB, MB, GB"),
        ("macs", "2ms", "unit 'ms' in '2ms' does not fit; write %, k, M, G"),
        ("macs", "half", "must be a share or an amount, got 'half'; e.g. 0.5, 50% or 2M"),
        ("macs", 1.5, "is the share that is kept, so it must be less than 1, got 1.5"),
        ("latency", 2, "less than 1, got 2; an absolute amount has a unit, e.g. 2ms"),
        ("macs", float("inf"), "less than 1, got inf"),
        ("params", -1, "must be above 0"),
        ("bytes", "0MB", "must be above 0"),
    ],
)
def test_amounts_that_mean_nothing(name, given, message):
    with pytest.raises(ValueError, match=f"target_x.* {message}"):
        read_amount("target_x", name, given)


def test_a_guard_may_allow_more_than_the_whole():
    assert read_amount("max_latency", "latency", "110%", kept=False) == pytest.approx(1.1)
    assert Amount(1.1, True).of(20) == pytest.approx(22) and Amount(5, False).share_of(20) == 0.25


def test_figures_are_shown_with_their_unit():
    shown = [cost_of(name).shown(1234.4) for name in ("macs", "params", "bytes", "latency", "memory", "energy")]
    assert shown == ["1,234 MACs", "1,234 parameters", "1,234 bytes", "1,234 ms", "1,234 bytes", "1,234 uJ"]
    keys = [figure_key(name) for name in ("macs", "latency", "memory", "energy")]
    assert keys == ["macs", "latency_ms", "memory_bytes", "energy_uj"]


def test_the_table_imports_no_torch():
    code = "import sys; from compresskit.training.budgets import with_targets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("given", [50, "50", 100])
def test_a_share_without_its_percent_sign_is_no_amount(given):
    with pytest.raises(ValueError, match="did you mean"):
        read_amount("target_macs", "macs", given)
    assert read_amount("target_macs", "macs", 101) == 101
    assert read_amount("target_latency", "latency", "50 ms") == "50 ms"
    assert read_amount("max_macs", "macs", 50, kept=False) == 50
