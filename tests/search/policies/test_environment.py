"""Walks: environments that gymnasium accepts, bounds that always meet the budget, HAQ's rounding and decrement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from compresskit.search.policies.environment import (
    BoundedWalk,
    LoweredWalk,
    Walks,
    highest_level,
    level_of,
    lowered,
    reward_of,
)
from compresskit.search.problem.search_space import Trial
from tests.search.toy import toy_problem


def walked(walk, actions):
    """States and the last info of a walk with these actions."""
    states = [walk.reset()[0]]
    for action in actions:
        state, _, ended, _, info = walk.step(np.array([action], dtype=np.float32))
        states.append(state)
    assert ended
    return np.array(states), info


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [BoundedWalk, LoweredWalk])
def test_gymnasium_accepts_the_environments(kind):
    environment = kind(toy_problem())
    check_env(environment, skip_render_check=True)  # raises if not
    assert environment.observation_space.contains(environment.reset()[0])


def test_a_state_has_the_eleven_features_of_amc():
    problem = toy_problem(budget=0.5)  # costs 1, 1, 2, 1 of 5
    states, info = walked(BoundedWalk(problem), [0.4, 1.0, 1.0, 1.0])
    assert states.shape == (5, 11)
    np.testing.assert_allclose(states[:, 0], [0, 0.25, 0.5, 0.75, 1])  # t
    np.testing.assert_allclose(states[0, 1:8], [0, 0, 0, 0, 0, 0, 0])  # n, c, h, w, stride, k, FLOPs[t], scaled
    np.testing.assert_allclose(states[2, 1:8], [0, 1, 0, 0, 0, 0, 1])
    np.testing.assert_allclose(states[1, 8:], [0.6 * 0.2, 0.8, 0.4], rtol=1e-5)  # reduced, rest, a[t-1]
    assert info["carried_out"] == pytest.approx([0.4, 1.0, 0.4, 0.2])  # 0.4 + 1 + 0.8 + 0.2 <= 2.5


def test_a_share_is_clipped_so_that_the_budget_is_met():
    problem = toy_problem(budget=0.5)
    for seed in range(20):
        actions = np.random.default_rng(seed).uniform(0.2, 1, 4)
        assert problem.fits(walked(BoundedWalk(problem), actions)[1]["choice"])


def test_lowered_widths_are_what_was_carried_out():
    problem = toy_problem(budget=0.9)
    _, info = walked(LoweredWalk(problem), [1.0, 1.0, 1.0, 1.0])
    assert info["choice"] == (4, 4, 3, 3)
    assert info["carried_out"] == pytest.approx([0.9, 0.9, 0.7, 0.7])


@pytest.mark.parametrize("kind", [BoundedWalk, LoweredWalk])
def test_a_shown_choice_is_carried_out_once_whatever_the_actions(kind):
    walk = kind(toy_problem(budget=0.5))
    uniform = walk.problem.fitted(np.ones(4))
    walk.show(uniform)
    _, info = walked(walk, [1.0, 0.2, 1.0, 0.2])
    assert info["choice"] == uniform
    assert info["carried_out"] == pytest.approx([walk.action_of(p, level) for p, level in enumerate(uniform)])
    again, plain = walked(walk, [1.0, 0.2, 1.0, 0.2])[1], walked(kind(walk.problem), [1.0, 0.2, 1.0, 0.2])[1]
    assert again == plain and plain["choice"] != uniform


def test_walks_are_rewarded_for_their_choices_at_the_end():
    problem = toy_problem(budget=0.9, trials=10)
    walks = Walks(lambda: BoundedWalk(problem), 2, lambda trial: trial.score)
    walks.reset()
    for place in range(4):
        _, rewards, done, infos = walks.step(np.array([[0.2], [0.8]], dtype=np.float32))
        assert done.all() == (place == 3)
        if place < 3:
            assert not rewards.any() and not problem.history
    assert [trial.choice for trial in problem.history] == [info["choice"] for info in infos] == [(0,) * 4, (3,) * 4]
    np.testing.assert_allclose(rewards, [trial.score for trial in problem.history], rtol=1e-6)


def test_highest_level_leaves_room_for_the_lowest_after_it():
    problem = toy_problem(budget=0.5)  # costs 1, 1, 2, 1 of 5; shares 0.2, 0.4 ... 1
    assert highest_level(problem, [0, 0, 0, 0], 0) == 4  # 1 + 0.2 + 0.4 + 0.2 <= 2.5
    assert highest_level(problem, [4, 0, 0, 0], 1) == 3  # 1 + 0.8 + 0.4 + 0.2 = 2.4
    assert highest_level(problem, [4, 3, 0, 0], 2) == 0  # nothing left but 0.1


def test_rewards():
    problem = toy_problem()
    trial = Trial(0, (0, 0, 0, 0), 0.9, 0.0, {}, 0.0, "amc")
    assert reward_of(trial, problem, "error") == pytest.approx(-0.1)
    problem.subject.costs = lambda choice: {"macs": 1e6, "params": 1e3}
    assert reward_of(trial, problem, "macs") == pytest.approx(-0.1 * math.log(1e6))
    assert reward_of(trial, problem, "params") == pytest.approx(-0.1 * math.log(1e3))


def test_actions_split_the_unit_interval_evenly():
    # HAQ: round((8 - 2 + 1) a + 2 - 0.5) bits for bits 2 to 8
    for action in np.linspace(0.001, 0.999, 50):
        assert level_of(action, 7) + 2 == min(max(math.floor(7 * action + 2 - 0.5 + 0.5), 2), 8)


def test_widths_are_lowered_from_the_last_layer_on():
    problem = toy_problem(budget=0.9)  # 4.5 of 5
    assert lowered(problem, [4, 4, 4, 4]) == [4, 4, 3, 3]
