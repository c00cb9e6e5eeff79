"""Rewards by hand, the policy gradient, and policies whose recurrent cells really learn."""

from __future__ import annotations

import math

import pytest
import torch

from compresskit.search.nas.policies.n2n import RemovalPolicy, ShrinkPolicy
from compresskit.search.nas.policies.reinforce import Reinforce, Rollout, policy_loss
from compresskit.search.nas.policies.rewards import accuracy_reward, compression_reward


def test_rewards_by_hand():
    assert compression_reward(0.9, 0.9, 0.25) == pytest.approx(0.75 * 1.25)
    assert compression_reward(0.45, 0.9, 0.25) == pytest.approx(0.75 * 1.25 / 2)
    assert compression_reward(0.9, 0.9, 1.0) == 0
    assert accuracy_reward(0.5, 100) == pytest.approx(1)
    assert accuracy_reward(1.0, 100) == pytest.approx(math.tan(0.995 * math.pi / 2))


def test_each_rollout_is_weighed_by_its_own_reward():
    logits = torch.zeros(2, requires_grad=True)
    rollouts = []
    for action in (0, 1):
        rollout = Rollout()
        rollout.draw(logits, torch.Generator(), [action == 0, action == 1])
        rollout.log_probability = logits.log_softmax(0)[action]
        rollouts.append(rollout)
    policy_loss(rollouts, [3.0, 1.0], 2.0).backward()
    # d/dlogits of -(1 * log p0 - 1 * log p1) / 2 at p = 1/2
    assert logits.grad.tolist() == pytest.approx([-0.5, 0.5])


def test_what_is_not_allowed_is_never_drawn():
    generator = torch.Generator().manual_seed(0)
    rollout = Rollout()
    drawn = {rollout.draw(torch.tensor([9.0, 0.0, 0.0]), generator, [False, True, True]) for _ in range(40)}
    assert drawn == {1, 2} and bool(torch.isfinite(rollout.log_probability))


@pytest.mark.integration
def test_the_better_action_becomes_likelier_and_the_cells_are_trained():
    torch.manual_seed(0)
    policy, layers = RemovalPolicy(), torch.rand(4, 6)
    before = {name: value.clone() for name, value in policy.named_parameters()}
    agent, generator = Reinforce(policy, rate=1e-2), torch.Generator().manual_seed(0)
    for _ in range(40):
        rollouts = []
        for _ in range(4):
            rollouts.append(Rollout())
            for logits in policy(layers):
                rollouts[-1].draw(logits, generator)
        agent.update(rollouts, [float(rollout.actions[2]) for rollout in rollouts])
    assert policy(layers)[2].softmax(0)[1] > 0.9
    assert all(not torch.equal(value, before[name]) for name, value in policy.named_parameters())


def test_a_restored_agent_goes_on_alike():
    torch.manual_seed(0)

    def step(agent, seed):
        rollout = Rollout()
        agent.controller(torch.ones(3, 6), rollout, torch.Generator().manual_seed(seed))
        agent.update([rollout], [float(seed)])

    first, second = Reinforce(ShrinkPolicy()), Reinforce(ShrinkPolicy())
    step(first, 1)
    second.restore(first.tensors())
    for agent in (first, second):
        step(agent, 2)
    assert first.baseline == second.baseline
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())
