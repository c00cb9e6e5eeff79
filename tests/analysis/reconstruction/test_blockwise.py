"""Block reconstruction of a disturbed network: errors fall, the disturbance heals, and nothing else moves."""

import copy

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.activation_cache import activation_memory
from compresskit.analysis.calibration.block_walk.blocks import find_blocks, modules_of
from compresskit.analysis.reconstruction.blockwise import Settings, outcome_table, reconstruct_blocks
from compresskit.analysis.reconstruction.fitting import Group


@pytest.fixture
def case():
    torch.manual_seed(0)
    whole = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)),
    ).eval()
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        for weight in changed.parameters():
            weight += 0.3 * weight.std() * torch.randn_like(weight) if weight.dim() > 1 else 0
    batches = [torch.randn(16, 3, 8, 8) for _ in range(12)]
    return whole, changed, find_blocks(whole, batches[0][:1]), batches


@torch.no_grad()
def distance(one, other, inputs):
    return float((one(inputs) - other(inputs)).square().mean())


def weights_in(root):
    def tunable(block):
        return [Group([layer.weight], 0.01) for _, layer in modules_of(root, block) if hasattr(layer, "weight")]

    return tunable


@pytest.mark.integration
def test_every_block_comes_nearer_and_so_does_the_model(case):
    whole, changed, blocks, batches = case
    biases = [one.clone() for name, one in changed.named_parameters() if name.endswith("bias")]
    wanted, fresh = whole(batches[0]), torch.randn(64, 3, 8, 8)
    before = distance(whole, changed, fresh)
    lines = []
    settings = Settings(80, log=lines.append, joint_iterations=80)
    outcomes = reconstruct_blocks(whole, changed, blocks, batches, weights_in(changed), settings, joint_batches=batches)
    assert list(outcomes) == [*(block.name for block in blocks), "the whole model"] and len(lines) == len(outcomes)
    assert all(one.kept and one.after < 0.5 * one.before for one in list(outcomes.values())[:-1])
    assert distance(whole, changed, fresh) < 0.3 * before
    after = [one for name, one in changed.named_parameters() if name.endswith("bias")]
    assert all(map(torch.equal, biases, after))
    assert torch.equal(whole(batches[0]), wanted)
    assert all(one.requires_grad and one.grad is None for one in changed.parameters())
    rows = outcome_table(outcomes)
    assert [row["block"] for row in rows] == list(outcomes)
    assert [row["weights"] for row in rows[:-1]] == ["reconstructed"] * len(blocks)


def test_the_same_seed_gives_the_same_weights_and_draws_nothing_from_the_global_generator(case):
    whole, changed, blocks, batches = case
    results, state = [], torch.get_rng_state()
    for _ in range(2):
        again = copy.deepcopy(changed)
        reconstruct_blocks(whole, again, blocks, batches, weights_in(again), Settings(20, seed=3))
        results.append(again.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_activations_that_wait_on_the_disk_change_nothing(case):
    """What is over the limit is emptied, and reading an emptied tensor would crash."""
    whole, changed, blocks, batches = case
    results = []
    for limit_bytes in (None, 0):
        again = copy.deepcopy(changed)
        with activation_memory(limit_bytes):
            reconstruct_blocks(whole, again, blocks, [torch.cat(batches)] * 3, weights_in(again), Settings(10))
        results.append(again.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_weight_that_two_layers_share_is_tuned_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.mixer, self.head = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.mixer(self.embedding(ids)).relu())

    torch.manual_seed(0)
    whole, batches = Tied().eval(), [torch.randint(12, (16, 5)) for _ in range(8)]
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        changed.mixer.weight += 0.2 * torch.randn(8, 8)
    settings = Settings(20, joint_iterations=40)
    blocks = find_blocks(whole, batches[0])
    before = distance(whole, changed, batches[0])
    outcomes = reconstruct_blocks(whole, changed, blocks, batches, weights_in(changed), settings, joint_batches=batches)
    assert outcomes["the whole model"].kept and distance(whole, changed, batches[0]) < before
    assert "head" not in outcomes and "embedding" not in outcomes  # alone, each would move the other
    assert changed.head.weight is changed.embedding.weight
