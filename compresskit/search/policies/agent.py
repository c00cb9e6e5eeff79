"""AMC's agent: the DDPG of stable-baselines3 with the noise, the rewards and the rates of the paper.

Source: Lillicrap et al., "Continuous Control with Deep Reinforcement Learning", ICLR 2016; sizes, rates, noise and
rewards after He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...core.errors import require
from .environment import Walks

if TYPE_CHECKING:
    from stable_baselines3 import DDPG
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.logger import Logger
else:  # their classes are the bases of these
    DDPG = require("stable_baselines3", "search").DDPG
    ReplayBuffer = require("stable_baselines3.common.buffers", "search").ReplayBuffer
    Logger = require("stable_baselines3.common.logger", "search").Logger

_HIDDEN = 300
_ACTOR_RATE, _CRITIC_RATE = 1e-4, 1e-3
_TAU = 0.01  # how fast the target networks follow
_BATCH = 64
_EPISODES = 100  # that are remembered
_SIGMA, _DECAY = 0.5, 0.95
_BASELINE_DECAY = 0.95


class Episodes(ReplayBuffer):
    """A replay memory for rewards that are known at the end of an episode.

    All walks of a step end together. Their transitions are held back until then; each is stored with the action that
    was carried out, after all clipping, and the episode's final reward. What is sampled has its rewards less their
    moving average.
    """

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._baseline: float | None = None

    def add(
        self, obs: np.ndarray, next_obs: np.ndarray, action: np.ndarray, reward: np.ndarray, done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        """Hold a transition of every walk, and store all of an episode with its last."""
        self._held.append((np.array(obs), np.array(next_obs), np.array(done)))
        if not done.all():
            return
        low, high = _bounds(self.action_space)
        for number, (state, following, ended) in enumerate(self._held):
            carried_out = np.array([[info["carried_out"][number]] for info in infos])
            super().add(state, following, 2 * (carried_out - low) / (high - low) - 1, reward, ended, infos)
        self._held.clear()

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """A batch of transitions with a baseline taken off the rewards."""
        batch = super().sample(batch_size, env)
        mean = float(batch.rewards.mean())
        old = mean if self._baseline is None else self._baseline
        self._baseline = _BASELINE_DECAY * old + (1 - _BASELINE_DECAY) * mean
        return batch._replace(rewards=batch.rewards - self._baseline)


class Agent(DDPG):
    """Actor and critic that learn from every finished episode, a step for each of its transitions; discount 1.

    Args:
        walks: the environments.
        seed: of the weights, the noise and the batches.
    Attributes:
        warming: whether the agent explores without learning.
    """

    def __init__(self, walks: Walks, seed: int):
        places = len(walks.walks[0].problem.places)
        super().__init__(
            "MlpPolicy", walks, learning_rate=_CRITIC_RATE, buffer_size=_EPISODES * places, learning_starts=0,
            batch_size=_BATCH, tau=_TAU, gamma=1.0, train_freq=(places, "step"), gradient_steps=-1,
            replay_buffer_class=Episodes, policy_kwargs={"net_arch": [_HIDDEN, _HIDDEN]}, seed=seed, device="cpu",
        )  # fmt: skip
        self.set_logger(Logger(None, []))  # the default one leaves an empty folder among the temporary files
        self.warming, self._episodes, self._noisy_episodes, self._noise_seed = True, 0, 0, seed
        self._draw_noise()
        outer = (_last_linear(self.actor), _last_linear(self.critic))
        for number, layer in enumerate(outer):  # the first outputs are then near their middle
            torch.nn.init.uniform_(layer.weight, -3e-3, 3e-3, generator=torch.Generator().manual_seed(seed + number))
            torch.nn.init.zeros_(layer.bias)
        self.actor_target.load_state_dict(self.actor.state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])

    def sigma(self) -> float:
        """Standard deviation of the noise: whole while warming, then less with every episode."""
        return _SIGMA * _DECAY**self._noisy_episodes

    def end_episodes(self, count: int, *, warming: bool) -> None:
        """Take note that so many episodes ended, and whether the next ones still warm up."""
        self._episodes += count
        self._noisy_episodes += 0 if self.warming else count
        self.warming = warming
        self._draw_noise()

    def _draw_noise(self) -> None:
        """Noise of its own for each episode, so that it does not matter how many walk side by side."""
        numbers = range(self._episodes, self._episodes + self.n_envs)
        self._noise = [np.random.default_rng([self._noise_seed, number]) for number in numbers]

    def train(self, gradient_steps: int, batch_size: int = _BATCH) -> None:
        """Learn, unless the agent only explores yet."""
        if not self.warming:
            super().train(gradient_steps, batch_size)

    def _sample_action(self, *_given: Any, **_named: Any) -> tuple[np.ndarray, np.ndarray]:
        assert self._last_obs is not None, "learn() resets the walks before it samples"
        means, _ = self.predict(self._last_obs, deterministic=True)
        low, high = (float(bound[0]) for bound in _bounds(self.action_space))
        drawn = [
            [truncated_normal(float(mean), self.sigma(), low, high, noise)]
            for (mean,), noise in zip(means, self._noise, strict=True)
        ]
        actions = np.array(drawn, dtype=np.float32)
        return actions, self.policy.scale_action(actions)

    def _update_learning_rate(self, optimizers: Any) -> None:
        for optimizer, rate in zip(optimizers, (_ACTOR_RATE, _CRITIC_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate


def _bounds(actions: Any) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest action of a space, which is a box."""
    return actions.low, actions.high


def _last_linear(net: nn.Module) -> nn.Linear:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1]


def truncated_normal(mean: float, sigma: float, low: float, high: float, generator: np.random.Generator) -> float:
    """One draw of a normal distribution cut off outside [low, high], by rejection."""
    if sigma <= 0 or high <= low:
        return min(max(mean, low), high)
    for _ in range(1000):
        draw = generator.normal(mean, sigma)
        if low <= draw <= high:
            return float(draw)
    return min(max(mean, low), high)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Give the process its random states back afterwards; stable-baselines3 seeds and draws from the global ones."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
