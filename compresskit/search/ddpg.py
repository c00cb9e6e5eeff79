"""A small agent for one continuous action: deep deterministic policy gradient.

Written here rather than taken from stable-baselines3, whose replay buffer stores the action before it is clipped to
the budget, and has no place for a reward that is known only at an episode's end and then holds for all its steps.

Source: Lillicrap et al., "Continuous Control with Deep Reinforcement Learning", ICLR 2016; sizes, rates and the noise
after He et al., "AMC", ECCV 2018.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

_HIDDEN = 300
_ACTOR_RATE, _CRITIC_RATE = 1e-4, 1e-3
_TAU = 0.01  # how fast the target networks follow
_BATCH = 64


class _Critic(nn.Module):
    def __init__(self, state_size: int):
        super().__init__()
        self.state = nn.Linear(state_size, _HIDDEN)
        self.action = nn.Linear(1, _HIDDEN)
        self.hidden = nn.Linear(_HIDDEN, _HIDDEN)
        self.value = nn.Linear(_HIDDEN, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """(batch, features), (batch, 1) -> (batch, 1)."""
        joined = torch.relu(self.state(state) + self.action(action))
        return self.value(torch.relu(self.hidden(joined)))


@dataclass(frozen=True)
class Step:
    """One transition of an episode; `action` is what was carried out, after any clipping."""

    state: np.ndarray
    action: float
    following: np.ndarray
    last: bool


class Agent:
    """Actor and critic with their targets, and a replay memory.

    Args:
        state_size: features a state.
        memory: transitions that are remembered.
        seed: of the weights, the noise and the batches.
    """

    def __init__(self, state_size: int, *, memory: int, seed: int):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = nn.Sequential(
                nn.Linear(state_size, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(),
                nn.Linear(_HIDDEN, 1), nn.Sigmoid(),
            )  # fmt: skip
            self.critic = _Critic(state_size)
        for network in (self.actor[4], self.critic.value):  # the first outputs are then near their middle
            nn.init.uniform_(network.weight, -3e-3, 3e-3, generator=torch.Generator().manual_seed(seed))
        self._actor_target, self._critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._actor_steps = torch.optim.Adam(self.actor.parameters(), _ACTOR_RATE)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), _CRITIC_RATE)
        self._memory = memory
        self._replay: list[tuple[Step, float]] = []
        self._place = 0
        self._generator = np.random.default_rng(seed)
        self._baseline: float | None = None

    @torch.no_grad()
    def act(self, state: np.ndarray, sigma: float, low: float, high: float) -> float:
        """The actor's action with truncated normal noise.

        Args:
            state: (features,).
            sigma: standard deviation of the noise; 0 for none.
            low, high: bounds of the action.
        """
        mean = float(self.actor(torch.as_tensor(state, dtype=torch.float32).unsqueeze(0)))
        return truncated_normal(min(max(mean, low), high), sigma, low, high, self._generator)

    def remember(self, episode: list[Step], reward: float) -> None:
        """Store an episode; its final reward is the reward of every step."""
        for step in episode:
            if len(self._replay) < self._memory:
                self._replay.append((step, reward))
            else:
                self._replay[self._place] = (step, reward)
                self._place = (self._place + 1) % self._memory

    def learn(self) -> None:
        """One step of critic and actor on a batch from memory, rewards less their moving average; discount 1."""
        picks = self._generator.integers(len(self._replay), size=_BATCH)
        batch = [self._replay[pick] for pick in picks]
        states, following = (_tensor([getattr(s, name) for s, _ in batch]) for name in ("state", "following"))
        actions = _tensor([[step.action] for step, _ in batch])
        running = _tensor([[float(not step.last)] for step, _ in batch])
        rewards = _tensor([[reward] for _, reward in batch])
        mean = float(rewards.mean())
        self._baseline = mean if self._baseline is None else 0.95 * self._baseline + 0.05 * mean
        with torch.no_grad():
            ahead = self._critic_target(following, self._actor_target(following))
            wanted = rewards - self._baseline + running * ahead
        _descend(self._critic_steps, (self.critic(states, actions) - wanted).square().mean())
        _descend(self._actor_steps, -self.critic(states, self.actor(states)).mean())
        for network, target in ((self.actor, self._actor_target), (self.critic, self._critic_target)):
            for own, slow in zip(network.parameters(), target.parameters(), strict=True):
                slow.data.lerp_(own.data, _TAU)


def _tensor(values: list) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def truncated_normal(mean: float, sigma: float, low: float, high: float, generator: np.random.Generator) -> float:
    """One draw of a normal distribution cut off outside [low, high], by rejection."""
    if sigma <= 0 or high <= low:
        return min(max(mean, low), high)
    for _ in range(1000):
        draw = generator.normal(mean, sigma)
        if low <= draw <= high:
            return float(draw)
    return min(max(mean, low), high)
