"""The agent: noise within bounds, what it remembers, and learning where the best action is known."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch

from compresskit.search.policies.agent import Agent, Episodes, own_randomness, truncated_normal
from compresskit.search.policies.environment import BoundedWalk, Walks
from tests.search.toy import toy_problem


def agent_of(problem, walks=1, seed=0):
    return Agent(Walks(lambda: BoundedWalk(problem), walks, lambda trial: trial.score - 1), seed=seed)


def test_truncated_normal_stays_inside_and_is_not_uniform():
    generator = np.random.default_rng(0)
    draws = [truncated_normal(0.3, 0.1, 0.2, 0.9, generator) for _ in range(2000)]
    assert min(draws) >= 0.2 and max(draws) <= 0.9
    assert np.median(draws) == pytest.approx(0.31, abs=0.02)


def test_no_noise_is_the_mean_clipped():
    generator = np.random.default_rng(0)
    assert truncated_normal(0.5, 0.0, 0.0, 0.3, generator) == 0.3


@pytest.mark.parametrize("walks", [1, 2])
def test_memory_holds_what_was_carried_out_and_the_final_reward(walks):
    """With half the cost, an action above what the budget allows is not what is remembered."""
    problem = toy_problem(budget=0.5, trials=100)
    with own_randomness():
        agent = agent_of(problem, walks)
        agent.learn(4 * walks)
    memory = agent.replay_buffer
    assert memory.pos == 4
    for walk in range(walks):
        trial = problem.history[walk]
        shares = [place.shares[level] for place, level in zip(problem.places, trial.choice, strict=True)]
        # -1 to 1 stand for the shares 0.2 to 1
        np.testing.assert_allclose(memory.actions[:4, walk, 0], (np.array(shares) - 0.6) / 0.4, atol=1e-6)
        np.testing.assert_allclose(memory.rewards[:4, walk], trial.score - 1, rtol=1e-6)
        assert memory.dones[:4, walk].tolist() == [0, 0, 0, 1]
        np.testing.assert_allclose(memory.observations[1:4, walk], memory.next_observations[:3, walk])


def test_memory_holds_a_hundred_episodes():
    problem = toy_problem(trials=1000)
    with own_randomness():
        assert agent_of(problem).replay_buffer.buffer_size == 400
        assert agent_of(problem, walks=2).replay_buffer.buffer_size == 200  # of each walk


def test_rewards_are_taken_less_their_moving_average():
    space = agent_of(toy_problem()).action_space
    memory = Episodes(8, agent_of(toy_problem()).observation_space, space, device="cpu")
    state = np.zeros((1, 11), dtype=np.float32)
    memory.add(state, state, np.zeros((1, 1)), np.array([-0.7]), np.array([True]), [{"carried_out": [0.5]}])
    assert memory.sample(4).rewards.flatten().tolist() == [0, 0, 0, 0]
    memory.rewards[:] = -0.5
    torch.testing.assert_close(memory.sample(4).rewards, torch.full((4, 1), 0.19))  # -0.5 + 0.95 * 0.7 + 0.05 * 0.5


def test_noise_is_whole_in_the_warm_up_and_shrinks_after_it():
    agent = agent_of(toy_problem())
    agent.end_episodes(1, warming=True)
    agent.end_episodes(1, warming=False)
    assert agent.sigma() == 0.5
    agent.end_episodes(2, warming=False)
    assert agent.sigma() == pytest.approx(0.5 * 0.95**2)


def test_warming_agents_do_not_learn():
    problem = toy_problem(trials=100)
    with own_randomness():
        agent = agent_of(problem)
        before = [p.clone() for p in agent.policy.parameters()]
        agent.learn(8)
        assert all(torch.equal(one, other) for one, other in zip(before, agent.policy.parameters(), strict=True))
        agent.end_episodes(2, warming=False)
        agent.learn(4)
        assert not all(torch.equal(one, other) for one, other in zip(before, agent.policy.parameters(), strict=True))
    rates = [agent.actor.optimizer.param_groups[0]["lr"], agent.critic.optimizer.param_groups[0]["lr"]]
    assert rates == [1e-4, 1e-3]


@pytest.mark.integration
def test_agent_learns_the_best_action():
    """One place, worth most at a share of 0.84."""
    problem = toy_problem(budget=1.0, trials=10_000, weights=(1.0,), sizes=(1.0,), levels=101)

    def reward(trial):
        return -10 * (problem.places[0].shares[trial.choice[0]] - 0.84) ** 2

    with own_randomness():
        walks = Walks(lambda: BoundedWalk(problem), 1, reward)
        agent = Agent(walks, seed=0)
        agent.learn(200)
        agent.warming = False
        agent.learn(700, reset_num_timesteps=False)
        action, _ = agent.predict(walks.reset(), deterministic=True)
    assert action.item() == pytest.approx(0.84, abs=0.1)


def test_agents_of_one_seed_are_equal():
    first, second = agent_of(toy_problem(), seed=4), agent_of(toy_problem(), seed=4)
    for one, other in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_does_not_matter_for_the_warm_up_how_many_walk_side_by_side():
    found = []
    for walks in (1, 2, 3):
        problem = toy_problem(budget=0.5, trials=100)
        with own_randomness():
            agent = agent_of(problem, walks)
            for _ in range(6 // walks):
                agent.learn(4 * walks)
                agent.end_episodes(walks, warming=True)
        found.append([trial.choice for trial in problem.history])
    assert found[0] == found[1] == found[2] and len(found[0]) > 3


def test_an_agent_leaves_no_folder_among_the_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_randomness():
        agent_of(toy_problem(budget=0.5, trials=8)).learn(4)
    assert list(tmp_path.iterdir()) == []
