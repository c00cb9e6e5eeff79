"""The loss curve between measured points, the output change, tables and plot."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Context, Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.decomposition.sensitivity import loss_at, output_change


def test_loss_follows_power_laws_between_and_beyond_the_points():
    points = [(0.2, 0.01), (0.4, 0.04), (0.8, 0.64)]  # powers 2 and 4
    for error, loss in points:
        assert loss_at(points, error) == pytest.approx(loss)
    assert loss_at(points, 0.1) == pytest.approx(0.0025)
    assert loss_at(points, 0.2 * 2**0.5) == pytest.approx(0.02)
    assert loss_at(points, 0.4 * 2**0.5) == pytest.approx(0.16)
    assert loss_at(points, 1.6) == pytest.approx(10.24)
    assert loss_at(points, 0.0) == 0.0
    assert loss_at([(0.5, 0.1)], 1.0) == pytest.approx(0.4)


def test_loss_never_falls_where_the_measurement_is_noisy():
    points = [(0.2, 0.02), (0.4, 0.01), (0.8, 0.5)]
    losses = [loss_at(points, error / 50) for error in range(1, 50)]
    assert losses == sorted(losses)


def test_output_change_is_the_divergence_of_class_probabilities():
    wanted, got = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    p, q = torch.tensor([0.5, 0.5]), torch.softmax(got[0], 0)
    assert output_change(wanted, got) == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert output_change(wanted, wanted) == 0
    assert output_change(torch.ones(2, 3, 4), torch.full((2, 3, 4), 1.5)) == pytest.approx(0.25)


def test_explain_lists_the_candidates_and_plot_draws_them(tmp_path):
    pytest.importorskip("matplotlib")
    loaded = Loaded(nn.Sequential(nn.Conv2d(8, 12, 3), nn.Conv2d(12, 8, 3)).eval(), {}, torch.randn(1, 8, 9, 9))
    result = decompose(
        loaded, DecomposeOptions(energy=0.6, explain=True, plot=True), Context(loaded.clone(), folder=tmp_path)
    )
    rows = result.tables["candidates"]
    chosen = {row["layer"]: row for row in rows if row["chosen"]}
    for row in result.tables["choices"]:
        assert chosen[row["layer"]]["rank"] == row["rank"]
        cheaper = [
            one for one in rows
            if one["layer"] == row["layer"] and one["macs_share"] < chosen[row["layer"]]["macs_share"]
        ]  # fmt: skip
        assert all(one["error"] ** 2 > 0.4 for one in cheaper)
    assert {"channel-svd", "tucker2", "cp"} <= {row["kind"] for row in rows}
    assert (tmp_path / "decomposition.png").read_bytes()[:4] == b"\x89PNG"
    assert result.files["decomposition.png"] == tmp_path / "decomposition.png"
