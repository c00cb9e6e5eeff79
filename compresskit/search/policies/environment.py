"""Walks through the places as environments of gymnasium: one action a place, and a reward when all are decided."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import require
from ..problem.search_space import Problem, Trial
from ..problem.subject import Choice

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
else:  # their classes are the bases of these
    gymnasium = require("gymnasium", "search")
    DummyVecEnv = require("stable_baselines3.common.vec_env", "search").DummyVecEnv

#: what an agent sees of a place's layer; absent ones count 0
_GEOMETRY = ("n", "c", "h", "w", "stride", "k", "cost_share")


class Walk(gymnasium.Env):
    """One walk from the first place to the last.

    The state has AMC's eleven features (t, n, c, h, w, stride, k, FLOPs[t], reduced, rest, a[t-1]), each scaled to
    [0, 1]. The last step's `info` holds the `choice` and what was `carried_out`, an action for each place; the reward
    is left to `Walks`, which scores the choices of several walks at once.

    Args:
        problem: places, costs and budget.
        low: smallest action; the largest is 1.
    Source: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, section 3.1.
    """

    def __init__(self, problem: Problem, low: float = 0.0):
        self.problem = problem
        self.geometry = scaled_geometry(problem)
        size = self.geometry.shape[1] + 4
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(low, 1.0, (1,), np.float32)
        self.levels: list[int] = []
        self.actions: list[float] = []
        self._shown: list[float] = []

    def show(self, choice: Choice) -> None:
        """Have the next walk make this choice, whatever the agent says, so that the agent learns from it too."""
        self._shown = [self.action_of(place, level) for place, level in enumerate(choice)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Go back to the first place."""
        super().reset(seed=seed)
        self.levels, self.actions = list(self.problem.smallest()), []
        return self.state(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide the next place."""
        place = len(self.actions)
        wanted = self._shown[place] if self._shown else float(action[0])
        self.levels[place], carried_out = self.decide(place, wanted)
        self.actions.append(carried_out)
        if place + 1 < len(self.problem.places):
            return self.state(), 0.0, False, False, {}
        self.finish()
        self._shown = []
        info = {"choice": tuple(self.levels), "carried_out": list(self.actions)}
        return self.state(), 0.0, True, False, info

    def decide(self, place: int, action: float) -> tuple[int, float]:
        """The level that an action means, and the action that it then is."""
        raise NotImplementedError

    def action_of(self, place: int, level: int) -> float:
        """The action that means a level."""
        raise NotImplementedError

    def finish(self) -> None:
        """Change levels and actions once all places are decided."""

    def progress(self) -> tuple[float, float]:
        """Share of the cost that the places before this one gave up, and share that lies in this one and after it."""
        return 0.0, 1 - len(self.actions) / len(self.problem.places)

    def state(self) -> np.ndarray:
        """The features of the place that is next, with what happened before it, (features,)."""
        place, count = len(self.actions), len(self.geometry)
        before = self.actions[-1] if self.actions else 1.0
        row = self.geometry[min(place, count - 1)]
        return np.clip(np.array([place / count, *row, *self.progress(), before], dtype=np.float32), 0, 1)


class BoundedWalk(Walk):
    """AMC's walk: a share is clipped to the largest with which the budget is met when all after it stand lowest."""

    def __init__(self, problem: Problem):
        super().__init__(problem, low=min(place.shares[0] for place in problem.places))
        self.weights = [place.features.get("cost_share", 1 / len(problem.places)) for place in problem.places]

    def decide(self, place: int, action: float) -> tuple[int, float]:
        """The nearest level, or the highest that the budget allows."""
        level = self.problem.places[place].nearest(action)
        level = min(level, highest_level(self.problem, self.levels, place))
        return level, self.action_of(place, level)

    def action_of(self, place: int, level: int) -> float:
        """Its share."""
        return self.problem.places[place].shares[level]

    def progress(self) -> tuple[float, float]:
        """What the places before this one gave up of the MACs, and what lies in this one and after it."""
        done = list(zip(self.actions, self.weights, strict=False))
        return sum((1 - action) * weight for action, weight in done), 1 - sum(weight for _, weight in done)


class LoweredWalk(Walk):
    """HAQ's walk: widths as they come, lowered at the end until the budget is met."""

    def decide(self, place: int, action: float) -> tuple[int, float]:
        """The level of the part of [0, 1] that the action lies in."""
        return level_of(action, len(self.problem.places[place])), action

    def action_of(self, place: int, level: int) -> float:
        """The middle of its part."""
        return (level + 0.5) / len(self.problem.places[place])

    def finish(self) -> None:
        """Lower the levels to the budget, and the actions with them."""
        self.levels = lowered(self.problem, self.levels)
        self.actions = [self.action_of(place, level) for place, level in enumerate(self.levels)]


class Walks(DummyVecEnv):
    """Several walks in step with each other, whose choices are scored at once when all have arrived.

    Args:
        make: makes a walk.
        count: walks.
        reward: of a scored choice.
    """

    def __init__(self, make: Callable[[], Walk], count: int, reward: Callable[[Trial], float]):
        self.walks = [make() for _ in range(count)]
        made = iter(self.walks)
        super().__init__([lambda: next(made)] * count)
        self._problem, self._reward = self.walks[0].problem, reward

    def step_wait(self) -> VecEnvStepReturn:
        """One step of every walk."""
        states, rewards, done, infos = super().step_wait()
        if done.all():
            trials = self._problem.evaluate_all(info["choice"] for info in infos)
            rewards = np.array([self._reward(trial) for trial in trials], dtype=np.float32)
        return states, rewards, done, infos


def scaled_geometry(problem: Problem) -> np.ndarray:
    """(places, features): geometry of each place's layer, each feature scaled to [0, 1] over the places."""
    rows = np.array([[place.features.get(name, 0.0) for name in _GEOMETRY] for place in problem.places])
    low, high = rows.min(0), rows.max(0)
    return (rows - low) / np.where(high > low, high - low, 1)


def reward_of(trial: Trial, problem: Problem, kind: str) -> float:
    """The reward of an episode: minus the error, or that times the logarithm of the MACs or parameters left.

    Args:
        kind: "error" (R_err), or the cost: MACs (R_FLOPs) or parameters (R_Param).
    Source: He et al., "AMC", ECCV 2018, section 3.4.
    """
    error = 1 - trial.score
    if kind == "error":
        return -error
    cost = problem.subject.costs(trial.choice)[kind]
    return -error * math.log(max(cost, 1.0))


def highest_level(problem: Problem, levels: list[int], place: int) -> int:
    """The highest level of a place within the budget, with the levels before it and the lowest ones after it.

    Source: He et al., "AMC", ECCV 2018, algorithm 1, with exact costs instead of one that is additive over layers.
    """
    low, high = 0, len(problem.places[place]) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if problem.fits([*levels[:place], middle, *levels[place + 1 :]]):
            low = middle
        else:
            high = middle - 1
    return low


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
