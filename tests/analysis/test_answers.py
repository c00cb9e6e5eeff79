"""Answers of two models that can be compared, also where a model returns boxes that it picked."""

import copy

import pytest
import torch
from torch import nn

from compresskit.analysis.answers import answer_of
from compresskit.analysis.calibration.block_walk.blocks import find_blocks
from compresskit.analysis.reconstruction.blockwise import Settings, reconstruct_blocks
from compresskit.analysis.reconstruction.fitting import Group
from tests.analysis.conftest import Detector


@pytest.fixture
def detectors():
    torch.manual_seed(0)
    whole = Detector().eval()
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        changed.body.weight += 0.1 * torch.randn_like(changed.body.weight)
    return whole, changed


def test_the_output_itself_where_it_has_one_shape():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    inputs = torch.randn(5, 3)
    assert torch.equal(answer_of(net, copy.deepcopy(net), [inputs])(net, inputs), net(inputs))


def test_a_detector_answers_with_what_no_layer_reads_each_by_its_deviation(detectors):
    whole, changed = detectors
    images = torch.randn(2, 3, 9, 9)
    answer = answer_of(whole, changed, [images])
    maps = whole.body(images).relu()
    heads = [whole.scores(maps), whole.boxes(maps)]
    expected = torch.cat([(head / head.std()).flatten() for head in heads])
    torch.testing.assert_close(answer(whole, images), expected)
    assert answer(changed, images).shape == expected.shape and answer(changed, images).requires_grad


def test_a_head_that_several_maps_share_answers_for_each_and_nothing_runs_after_the_last_answer():
    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.picked = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), 0

        def forward(self, images):
            fine = self.body(images).relu()
            maps = [self.head(fine), self.head(fine[..., ::2, ::2])]
            self.picked += 1
            rows = torch.cat([one.flatten(2) for one in maps], 2)
            return [{"boxes": one.T[one[0] > 0]} for one in rows]

    torch.manual_seed(0)
    whole, images = Levels().eval(), torch.randn(2, 3, 9, 9)
    changed = copy.deepcopy(whole)
    answer = answer_of(whole, changed, [images])
    fine = whole.body(images).relu()
    flat = torch.cat([whole.head(fine).flatten(), whole.head(fine[..., ::2, ::2]).flatten()])
    ran = changed.picked
    torch.testing.assert_close(answer(changed, images), flat / flat.std())
    assert changed.picked == ran


def test_nothing_is_compared_where_no_layer_answers():
    class Picked(nn.Module):
        def forward(self, rows):
            return rows[rows[:, 0] > 0] if self.training else rows[:2]

    rows = torch.randn(9, 3)
    whole, changed = nn.Sequential(Picked()), nn.Sequential(nn.Identity())
    assert answer_of(whole, changed, [rows]) is None


def test_all_blocks_of_a_detector_are_tuned_at_once(detectors):
    whole, changed = detectors
    batches = [torch.randn(4, 3, 9, 9) for _ in range(6)]
    settings = Settings(2, joint_iterations=60)
    found = reconstruct_blocks(
        whole, changed, find_blocks(whole, batches[0]), batches,
        lambda block: [Group([changed.body.weight], 0.01)] if block.name == "the whole model" else [],
        settings, joint_batches=batches,
    )  # fmt: skip
    assert list(found) == ["the whole model"]
    assert found["the whole model"].after < 0.7 * found["the whole model"].before
