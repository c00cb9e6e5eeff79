"""Agents that go through the places one by one: AMC's keep ratios and HAQ's bits."""

from __future__ import annotations

import math

import numpy as np

from .ddpg import Agent, Step
from .options import SearchOptions
from .problem import Choice, Problem, Trial

_SIGMA, _DECAY = 0.5, 0.95
#: what an agent sees of a place's layer; absent ones count 0
_GEOMETRY = ("n", "c", "h", "w", "stride", "k", "macs")


def amc(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """AMC: a ratio for each place in turn, bounded so that the budget can still be met.

    The state has the paper's eleven features (t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a[t-1]), each scaled
    to [0, 1]. An action is clipped to the largest ratio with which the budget is met when everything after it stands at
    its lowest level, from exact costs; the replay holds what was carried out.

    Source: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, section 3,
    algorithm 1.
    """
    geometry = _scaled_geometry(problem)
    agent = _agent(problem, geometry, generator)
    return _episodes(problem, agent, options, lambda sigma: _bounded_episode(problem, agent, geometry, sigma))


def haq(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """HAQ: a width for each layer in turn, then widths lowered from the last layer on until the budget is met.

    Source: Wang et al., "HAQ: Hardware-Aware Automated Quantization With Mixed Precision", CVPR 2019,
    section 3. Candidates are rounded after training and not retrained, which the paper does for an epoch each.
    """
    geometry = _scaled_geometry(problem)
    agent = _agent(problem, geometry, generator)
    return _episodes(problem, agent, options, lambda sigma: _lowered_episode(problem, agent, geometry, sigma))


def _agent(problem: Problem, geometry: np.ndarray, generator: np.random.Generator) -> Agent:
    size = geometry.shape[1] + 4
    return Agent(size, memory=100 * len(problem.places), seed=int(generator.integers(2**31)))


def _scaled_geometry(problem: Problem) -> np.ndarray:
    """(places, features): geometry of each place's layer, each feature scaled to [0, 1] over the places."""
    rows = np.array([[place.features.get(name, 0.0) for name in _GEOMETRY] for place in problem.places])
    low, high = rows.min(0), rows.max(0)
    return (rows - low) / np.where(high > low, high - low, 1)


def _state(geometry: np.ndarray, place: int, reduced: float, rest: float, action: float) -> np.ndarray:
    """The features of a place with what happened before it: (t, geometry, reduced, rest, a[t-1])."""
    count = len(geometry)
    position = min(place, count - 1)
    return np.array([place / count, *geometry[position], reduced, rest, action], dtype=np.float32)


def _episodes(problem: Problem, agent: Agent, options: SearchOptions, episode) -> Choice:
    """Episodes until the budget of trials or time is used up: noise alone first, then noise that decays.

    Where workers score several candidates at once, as many episodes are played before the agent learns from them.
    """
    number, after_warmup = len(problem.history), 0
    while number < problem.trials and not problem.out_of_time():
        warming = max(problem.time_share(), number / problem.trials) < options.warmup and number < 100
        after_warmup += not warming
        sigma = _SIGMA * _DECAY ** max(after_warmup - 1, 0)
        episodes = [episode(sigma) for _ in range(min(problem.room(), problem.trials - number))]
        for trial, (_, steps) in zip(problem.evaluate_all(c for c, _ in episodes), episodes, strict=True):
            agent.remember(steps, reward_of(trial, problem, options.reward))
            if not warming:
                for _ in steps:
                    agent.learn()
        after_warmup += (len(episodes) - 1) * (not warming)
        number += len(episodes)
    best = problem.best()
    return best.choice if best else problem.fitted(np.ones(len(problem.places)))


def reward_of(trial: Trial, problem: Problem, kind: str) -> float:
    """The reward of an episode: minus the error, or that times the logarithm of the MACs or parameters left.

    Args:
        kind: "error" (R_err), "macs" (R_FLOPs) or "params" (R_Param).
    Source: He et al., "AMC", ECCV 2018, section 3.4.
    """
    error = 1 - trial.score
    if kind == "error":
        return -error
    cost = problem.subject.costs(trial.choice)[kind]
    return -error * math.log(max(cost, 1.0))


def _bounded_episode(problem: Problem, agent: Agent, geometry: np.ndarray, sigma: float) -> tuple[Choice, list[Step]]:
    floor = min(place.shares[0] for place in problem.places)
    levels = list(problem.smallest())
    reduced, rest, action = 0.0, 1.0, 1.0
    state = _state(geometry, 0, reduced, rest, action)
    steps = []
    for place, own in enumerate(problem.places):
        wanted = agent.act(state, sigma, floor, 1.0)
        level = int(np.abs(np.asarray(own.shares) - wanted).argmin())
        level = min(level, highest_level(problem, levels, place))
        levels[place] = level
        action = own.shares[level]
        cost = own.features.get("macs", 1 / len(problem.places))
        reduced += (1 - action) * cost
        rest -= cost
        following = _state(geometry, place + 1, min(reduced, 1.0), max(rest, 0.0), action)
        steps.append(Step(state, action, following, place + 1 == len(problem.places)))
        state = following
    return tuple(levels), steps


def highest_level(problem: Problem, levels: list[int], place: int) -> int:
    """The highest level of a place within the budget, with the levels before it and the lowest ones after it."""
    low, high = 0, len(problem.places[place]) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if problem.fits([*levels[:place], middle, *levels[place + 1 :]]):
            low = middle
        else:
            high = middle - 1
    return low


def _lowered_episode(problem: Problem, agent: Agent, geometry: np.ndarray, sigma: float) -> tuple[Choice, list[Step]]:
    states, levels, action = [], [], 1.0
    for place, own in enumerate(problem.places):
        states.append(_state(geometry, place, 0.0, 1 - place / len(problem.places), action))
        action = agent.act(states[-1], sigma, 0.0, 1.0)
        levels.append(level_of(action, len(own)))
    levels = lowered(problem, levels)
    actions = [(level + 0.5) / len(own) for level, own in zip(levels, problem.places, strict=True)]
    states.append(_state(geometry, len(levels), 0.0, 0.0, actions[-1]))
    steps = [
        Step(states[n], actions[n], states[n + 1], n + 1 == len(levels)) for n in range(len(levels))
    ]  # fmt: skip
    return tuple(levels), steps


def level_of(action: float, count: int) -> int:
    """The level that an action in [0, 1] means: equal parts, as HAQ's round((b_max - b_min + 1) a + b_min - 0.5)."""
    return min(int(action * count), count - 1)


def lowered(problem: Problem, levels: list[int]) -> list[int]:
    """Levels lowered by one step a place, from the last place to the first and again, until the budget is met."""
    levels = list(levels)
    while not problem.fits(levels):
        before = list(levels)
        for place in reversed(range(len(levels))):
            if levels[place] > 0:
                levels[place] -= 1
                if problem.fits(levels):
                    return levels
        if levels == before:
            break
    return levels
