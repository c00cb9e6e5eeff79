"""Losses between feature maps against their equations written out, and against torchdistill where it is installed."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError, ShapeError
from compresskit.distillation.losses import maps
from compresskit.distillation.losses.term import DistillationBatch, Setup


def feature(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def setup_of(*pairs, **arguments) -> Setup:
    return Setup(DistillationBatch(torch.zeros(1), torch.zeros(1), features=pairs), arguments=arguments)


def test_attention_map_by_hand():
    # two channels, two places: mean squares (9 + 0)/2 and (0 + 16)/2, whose vector has length sqrt(4.5^2 + 8^2)
    x = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])
    length = (4.5**2 + 8.0**2) ** 0.5
    assert torch.allclose(maps.attention_map(x), torch.tensor([[4.5 / length, 8.0 / length]]))


def test_attention_transfer_by_hand_and_without_regard_to_scale_and_channels():
    student = torch.tensor([[[[1.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 5.0]], [[0.0, 1.0]]]])
    assert maps.attention_transfer(student, teacher).item() == pytest.approx(1.0)  # ((1-0)^2 + (0-1)^2) / 2
    assert maps.attention_transfer(student * 7, student).item() == pytest.approx(0.0)


def test_attention_transfer_pools_the_larger_map():
    student, teacher = feature(2, 3, 8, 8), feature(2, 5, 4, 4, seed=1)
    pooled = nn.functional.adaptive_avg_pool2d(student, 4)
    assert maps.attention_transfer(student, teacher).item() == pytest.approx(
        maps.attention_transfer(pooled, teacher).item()
    )


def test_attention_transfer_is_torchdistills():
    pytest.importorskip("torchdistill")
    pair = {"student": {"path": "m", "io": "output"}, "teacher": {"path": "m", "io": "output"}, "weight": 1}
    peer = import_module("torchdistill.losses.mid_level").ATLoss({"one": pair}, mode="code")
    student, teacher = feature(4, 3, 8, 8), feature(4, 6, 8, 8, seed=1)
    theirs = peer({"m": {"output": student}}, {"m": {"output": teacher}})
    assert maps.attention_transfer(student, teacher).item() == pytest.approx(float(theirs), rel=1e-5)


def test_gradient_attention_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    assert maps.gradient_attention(student, teacher).item() == pytest.approx(0.5 * (5 + 9) / 2)


def test_hint_regressor_brings_shapes_together_and_its_loss_is_the_mean_square():
    student, teacher = feature(2, 3, 8, 8), feature(2, 5, 4, 4, seed=1).relu()
    term = maps.FITNET.make(setup_of((student, teacher), kernel=1.0))
    (regressor,) = term.adapters
    assert isinstance(regressor[-1], nn.ReLU)  # the teacher's feature is positive
    regressed = regressor(student)
    assert regressed.shape == teacher.shape
    signals = DistillationBatch(torch.zeros(1), torch.zeros(1), features=[(student, teacher)])
    assert term.compute(signals).item() == pytest.approx((regressed - teacher).square().mean().item(), rel=1e-5)


def test_hint_takes_the_middle_stage():
    pairs = [(feature(2, c, 4, 4), feature(2, 2 * c, 4, 4, seed=1)) for c in (2, 3, 4)]
    term = maps.FITNET.make(setup_of(*pairs, kernel=3.0))
    assert term.adapters[0][0].weight.shape == (6, 3, 3, 3)


def test_an_even_regressor_kernel_is_refused():
    with pytest.raises(InputError, match="fitnet.kernel must be odd, got 2"):
        maps.FITNET.make(setup_of((feature(2, 3, 4, 4), feature(2, 3, 4, 4)), kernel=2.0))


def test_selectivity_is_the_discrepancy_summed_over_all_channel_pairs():
    student, teacher = feature(2, 3, 2, 2), feature(2, 4, 2, 2, seed=1)
    s, t = (nn.functional.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    expected = 0.0
    for b in range(2):
        for first, second, sign in ((s, s, 1), (t, t, 1), (s, t, -2)):
            kernel = sum(float(x @ y) ** 2 for x in first[b] for y in second[b])
            expected += sign * kernel / (first.shape[1] * second.shape[1]) / 2
    assert maps.selectivity(student, teacher).item() == pytest.approx(expected, rel=1e-4)
    assert maps.selectivity(student, student[:, [2, 0, 1]]).item() == pytest.approx(0, abs=1e-6)


def test_flow_matrix_by_hand():
    first = torch.tensor([[[[1.0, 2.0]]]])  # one channel, two places
    second = torch.tensor([[[[3.0, 4.0]], [[5.0, 6.0]]]])
    assert maps.flow(first, second).tolist() == [[[(3 + 8) / 2, (5 + 12) / 2]]]


def test_flow_matrix_is_torchdistills():
    pytest.importorskip("torchdistill")
    peer = import_module("torchdistill.losses.mid_level").FSPLoss
    first, second = feature(2, 3, 8, 8), feature(2, 5, 4, 4, seed=1)
    assert torch.allclose(maps.flow(first, second), peer.compute_fsp_matrix(first, second), atol=1e-6)


def test_flow_needs_two_stages():
    with pytest.raises(InputError, match="fsp needs two matched stages"):
        maps.FSP.make(setup_of((feature(2, 3, 4, 4), feature(2, 3, 4, 4))))


def test_flow_of_equal_features_is_zero_and_adapters_stand_only_where_widths_differ():
    pairs = [(feature(2, c, 4, 4), feature(2, c, 4, 4)) for c in (2, 3)]
    term = maps.FSP.make(setup_of(*pairs))
    assert term.adapters == []
    assert term.compute(DistillationBatch(torch.zeros(1), torch.zeros(1), features=pairs)).item() == 0
    term = maps.FSP.make(setup_of((feature(2, 2, 4, 4), feature(2, 3, 4, 4)), pairs[1]))
    assert [tuple(adapter.weight.shape[:2]) for adapter in term.adapters] == [(3, 2)]


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 3)])
def test_tokens_and_vectors_are_maps_too(shape):
    assert maps.attention_transfer(feature(*shape), feature(*shape)).item() == 0


def test_other_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"2 to 4 dimensions, got shape \[3\]"):
        maps.attention_map(torch.zeros(3))
