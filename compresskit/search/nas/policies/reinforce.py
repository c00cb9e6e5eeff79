"""Policy gradients for the recurrent controllers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ....training.checkpoints.checkpoint import optimizer_tensors, prefixed, restore_optimizer, under


@dataclass
class Rollout:
    """The decisions of one episode: what was drawn, and the logarithm of its probability."""

    log_probability: Tensor = field(default_factory=lambda: torch.zeros(()))
    entropy: Tensor = field(default_factory=lambda: torch.zeros(()))
    actions: list[int] = field(default_factory=list)

    def draw(self, logits: Tensor, generator: torch.Generator, allowed: Sequence[bool] | None = None) -> int:
        """Draw one of several choices, and remember it.

        Args:
            logits: (choices,).
            generator: decides.
            allowed: of each choice whether it may be drawn; None allows all.
        """
        if allowed is not None:
            logits = logits.masked_fill(~torch.tensor(allowed), float("-inf"))
        logs = logits.log_softmax(0)
        action = int(torch.multinomial(logs.detach().exp(), 1, generator=generator))
        self.log_probability = self.log_probability + logs[action]
        probable = logs.exp() > 0
        self.entropy = self.entropy - (logs.exp() * logs.masked_fill(~probable, 0.0)).sum()
        self.actions.append(action)
        return action


class Reinforce:
    """REINFORCE with a moving average of the rewards as baseline; every rollout is weighed by its own reward.

    Args:
        controller: its parameters are trained.
        rate: Adam's learning rate.
        decay: of the moving average.
        entropy: weight of the policy's entropy, which keeps it from settling early.
    Source: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992.
    """

    def __init__(self, controller: nn.Module, *, rate: float = 3e-3, decay: float = 0.8, entropy: float = 0.0):
        self.controller = controller
        self.baseline: float | None = None
        self._decay, self._entropy = decay, entropy
        self._optimizer = torch.optim.Adam(controller.parameters(), rate)

    def update(self, rollouts: Sequence[Rollout], rewards: Sequence[float]) -> None:
        """One step up the gradient of the expected reward.

        Args:
            rollouts: episodes drawn from the controller as it is.
            rewards: one for each.
        """
        mean = sum(rewards) / len(rewards)
        if self.baseline is None:
            self.baseline = mean
        loss = policy_loss(rollouts, rewards, self.baseline)
        if self._entropy:
            loss = loss - self._entropy * torch.stack([rollout.entropy for rollout in rollouts]).mean()
        self.baseline = self._decay * self.baseline + (1 - self._decay) * mean
        if loss.requires_grad:  # nothing was free to decide otherwise
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.controller.parameters(), 1.0)
            self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Copies of what a resumed search needs of the agent; the baseline is NaN before the first update."""
        baseline = torch.tensor(float("nan") if self.baseline is None else self.baseline, dtype=torch.float64)
        found = {
            **prefixed("controller", self.controller.state_dict()),
            **prefixed("optimizer", optimizer_tensors(self._optimizer)),
            "baseline": baseline,
        }
        return {name: tensor.detach().clone() for name, tensor in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Undo `tensors`."""
        self.controller.load_state_dict(under("controller", tensors))
        restore_optimizer(self._optimizer, under("optimizer", tensors))
        baseline = float(tensors["baseline"])
        self.baseline = None if baseline != baseline else baseline


def policy_loss(rollouts: Sequence[Rollout], rewards: Sequence[float], baseline: float) -> Tensor:
    """Mean over the rollouts of -(reward - baseline) times the logarithm of the rollout's probability; a scalar."""
    terms = [-(reward - baseline) * rollout.log_probability for rollout, reward in zip(rollouts, rewards, strict=True)]
    return torch.stack(terms).mean()
