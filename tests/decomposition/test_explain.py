"""Tables and plot of a real step."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.training.context import Context


@pytest.mark.integration
def test_explain_lists_the_candidates_and_plot_draws_them(tmp_path):
    pytest.importorskip("matplotlib")
    loaded = Loaded(nn.Sequential(nn.Conv2d(8, 12, 3), nn.Conv2d(12, 8, 3)).eval(), {}, torch.randn(1, 8, 9, 9))
    result = decompose(
        loaded,
        DecomposeOptions(energy=0.6, explain=True, plot=True, slower_layers="allow"),
        Context(loaded.clone(), folder=tmp_path),
    )
    rows = result.facts["candidates"]
    chosen = {row["layer"]: row for row in rows if row["chosen"]}
    for row in result.tables["choices"]:
        assert chosen[row["layer"]]["rank"] == row["rank"]
        cheaper = [
            one for one in rows
            if one["layer"] == row["layer"] and one["macs_share"] < chosen[row["layer"]]["macs_share"]
        ]  # fmt: skip
        assert all(one["error"] ** 2 > 0.4 for one in cheaper)
    for short in result.tables["candidates"]:
        one = chosen[short["layer"]]
        assert short["chosen"].startswith(f"{one['kind']} {one['rank']}: error {one['error']:.3f}"[:-1])
        others = [row for row in rows if row["layer"] == short["layer"] and row["kind"] != one["kind"]]
        within = [row for row in others if row["macs_share"] <= one["macs_share"]]
        best = min(within, key=lambda row: row["error"])
        assert short["best of the other kinds at that cost"].startswith(f"{best['kind']} {best['rank']}: ")
        assert short["candidates"] == sum(row["layer"] == short["layer"] for row in rows)
    assert {"channel-svd", "tucker2", "cp"} <= {row["kind"] for row in rows}
    assert (tmp_path / "decomposition.png").read_bytes()[:4] == b"\x89PNG"
    assert result.files["decomposition.png"] == tmp_path / "decomposition.png"
