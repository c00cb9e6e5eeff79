"""The agent: noise within bounds, and learning where the best action is known."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.search.ddpg import Agent, Step, truncated_normal


def test_truncated_normal_stays_inside_and_is_not_uniform():
    generator = np.random.default_rng(0)
    draws = [truncated_normal(0.3, 0.1, 0.2, 0.9, generator) for _ in range(2000)]
    assert min(draws) >= 0.2 and max(draws) <= 0.9
    assert np.median(draws) == pytest.approx(0.31, abs=0.02)


def test_no_noise_is_the_mean_clipped():
    generator = np.random.default_rng(0)
    assert truncated_normal(0.5, 0.0, 0.0, 0.3, generator) == 0.3


def test_memory_drops_the_oldest():
    agent = Agent(2, memory=3, seed=0)
    for number in range(5):
        agent.remember([Step(np.zeros(2), float(number), np.zeros(2), True)], 0.0)
    assert sorted(step.action for step, _ in agent._replay) == [2.0, 3.0, 4.0]


def test_every_step_of_an_episode_gets_its_final_reward():
    agent = Agent(1, memory=10, seed=0)
    agent.remember([Step(np.zeros(1), 0.5, np.zeros(1), last) for last in (False, True)], -0.7)
    assert [reward for _, reward in agent._replay] == [-0.7, -0.7]


def test_agent_learns_the_best_action():
    agent = Agent(1, memory=2000, seed=0)
    state = np.ones(1, dtype=np.float32)
    generator = np.random.default_rng(0)
    for _ in range(600):
        action = generator.random()
        agent.remember([Step(state, action, state, True)], -((action - 0.8) ** 2) * 10)
    for _ in range(1500):
        agent.learn()
    assert agent.act(state, 0.0, 0.0, 1.0) == pytest.approx(0.8, abs=0.1)


def test_agents_of_one_seed_are_equal():
    first, second = Agent(3, memory=5, seed=4), Agent(3, memory=5, seed=4)
    state = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    assert first.act(state, 0.5, 0, 1) == second.act(state, 0.5, 0, 1)
