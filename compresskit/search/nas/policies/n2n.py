"""`n2n`: a recurrent policy takes layers out of the model, a second one narrows what is left.

Differences from the authors' released code: both policies' recurrent cells are trained; every rollout is weighed by its
own reward; rewards come from held-out training images, never from the test split. Differences from the paper, so that
some ten students suffice instead of hundreds: widths are relative, and each student is as wide as the budget allows, so
that none is wasted on a budget that it misses; layers are taken out of students that are narrowed evenly to the budget
instead of whole ones, because a layer that costs little may be worth more than width elsewhere.

Source: Ashok, Rhinehart, Beainy & Kitani, "N2N Learning: Network to Network Compression via Policy Gradient
Reinforcement Learning", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.costs import PARAMS
from ....core.errors import InputError
from ....core.tensors.randomness import manual_seed
from ....core.types import Loaded
from ..session import Child, Session
from ..student import FEATURES, Shrinker, Unit, described, removable_units, without
from .reinforce import Reinforce, Rollout
from .rewards import INFEASIBLE, compression_reward

HIDDEN = 30
#: the relative width that a layer may keep; 0 leaves a single channel
RATIOS = tuple(step / 10 for step in range(11))
#: share of the search that goes into the removal of layers
_REMOVAL_SHARE = 0.35


class RemovalPolicy(nn.Module):
    """A bidirectional LSTM over the layers that says of each whether it stays."""

    def __init__(self, features: int = len(FEATURES)):
        super().__init__()
        self.encoder = nn.LSTM(features, HIDDEN, bidirectional=True)
        self.decide = nn.Linear(2 * HIDDEN, 2)

    def forward(self, layers: Tensor) -> Tensor:
        """(layers, features) -> logits of (drop, keep), (layers, 2)."""
        return self.decide(self.encoder(layers)[0])


class ShrinkPolicy(nn.Module):
    """A bidirectional LSTM over the layers; a second LSTM decides in turn, knowing what it decided before."""

    def __init__(self, features: int = len(FEATURES)):
        super().__init__()
        self.encoder = nn.LSTM(features, HIDDEN, bidirectional=True)
        self.decoder = nn.LSTMCell(2 * HIDDEN + len(RATIOS), HIDDEN)
        self.decide = nn.Linear(HIDDEN, len(RATIOS))

    def forward(self, layers: Tensor, rollout: Rollout, generator: torch.Generator) -> list[int]:
        """(layers, features) -> an index into RATIOS for each layer."""
        encoded = self.encoder(layers)[0]
        hidden, before = (torch.zeros(HIDDEN), torch.zeros(HIDDEN)), torch.zeros(len(RATIOS))
        actions = []
        for place in encoded:
            hidden = self.decoder(torch.cat([place, before]), hidden)
            actions.append(rollout.draw(self.decide(hidden[0]), generator))
            before = F.one_hot(torch.tensor(actions[-1]), len(RATIOS)).float()
        return actions


def n2n(session: Session) -> None:
    """Search for a student of the teacher itself: first which layers stay, then how wide they are."""
    if session.teacher.source["kind"] == "pt2":
        raise InputError("policy 'n2n' changes the model's layers, and a .pt2 has none; start from its factory")
    with torch.random.fork_rng(devices=[]):
        manual_seed(session.context.seed)
        removal, shrink = RemovalPolicy(), ShrinkPolicy()
    session.agents = {"removal": Reinforce(removal), "shrink": Reinforce(shrink, rate=1e-2)}
    session.restore()
    if not session.children:
        _judge_narrowed(session, ())
    units = removable_units(session.teacher)
    if units and "removed" not in session.state:
        _remove_layers(session, removal, units)
    session.state.setdefault("removed", [])
    gone = [unit for unit in units if unit.name in session.state["removed"]]
    _shrink_layers(session, shrink, without(session.teacher, gone))


def _remove_layers(session: Session, policy: RemovalPolicy, units: Sequence[Unit]) -> None:
    blocks = [unit.name for unit in units if unit.edits[0]["op"] == "skip"]
    layers = described(session.teacher, [unit.name for unit in units], blocks)

    def propose() -> tuple[Rollout, float]:
        rollout = Rollout()
        keeps = [rollout.draw(logits, session.generator) for logits in policy(layers)]
        return rollout, _judge_narrowed(session, [u for u, keep in zip(units, keeps, strict=True) if not keep]).reward

    session.episodes(_REMOVAL_SHARE, propose, session.agents["removal"], session.options.children)
    # the whole teacher, narrowed, is a student too: without a better one, nothing is removed
    tried = [child for child in session.children if child.score is not None]
    best = max(tried, key=lambda child: child.reward, default=None)
    session.state["removed"] = best.network["removed"] if best else []
    session.context.log(f"n2n removes {', '.join(session.state['removed']) or 'nothing'}; the rest is narrowed")
    session.save()


def _judge_narrowed(session: Session, gone: Sequence[Unit]) -> Child:
    """The teacher without some units, narrowed evenly to the budget."""
    shrinker = Shrinker(without(session.teacher, gone), session.context)
    return _judged(session, [unit.name for unit in gone], shrinker, [1.0] * len(shrinker.groups))


def _shrink_layers(session: Session, policy: ShrinkPolicy, reduced: Loaded) -> None:
    shrinker = Shrinker(reduced, session.context)
    layers = shrinker.features()

    def propose() -> tuple[Rollout, float]:
        rollout = Rollout()
        ratios = [RATIOS[action] for action in policy(layers, rollout, session.generator)]
        return rollout, _judged(session, session.state["removed"], shrinker, ratios).reward

    session.episodes(1.0, propose, session.agents["shrink"], session.options.children)


def _judged(session: Session, removed: Sequence[str], shrinker: Shrinker, ratios: Sequence[float]) -> Child:
    """A student as wide as the budget allows: trained and scored, or looked up where it was proposed before."""
    counts = fitted(session, shrinker, ratios)
    costs = shrinker.costs(counts)
    kept = {group.name: count for group, count in zip(shrinker.groups, counts, strict=True) if count < len(group)}
    network = {"removed": list(removed), "kept": kept}
    if not session.fits(costs):
        return session.record(network, costs, INFEASIBLE)
    known = next((c for c in session.children if c.network == network and c.score is not None), None)
    if known is not None:
        return session.record(network, costs, known.reward, score=known.score)
    student = shrinker.build(counts)
    score = session.score_after_training(student, objective=session.regression)
    share = costs[PARAMS] / session.whole[PARAMS]
    reward = compression_reward(score, session.teacher_score, share)
    return session.record(network, costs, reward, score=score, trained=student)


def fitted(session: Session, shrinker: Shrinker, ratios: Sequence[float]) -> list[int]:
    """Units of each group at relative widths, as many as the budget allows; the fewest where even those exceed it."""
    low, high = 0.0, 1 / max(min((ratio for ratio in ratios if ratio > 0), default=1.0), 1e-6)
    for _ in range(30):
        middle = (low + high) / 2
        if session.fits(shrinker.costs(_scaled(shrinker, ratios, middle))):
            low = middle
        else:
            high = middle
    return _scaled(shrinker, ratios, low)


def _scaled(shrinker: Shrinker, ratios: Sequence[float], factor: float) -> list[int]:
    return shrinker.counts([min(ratio * factor, 1.0) for ratio in ratios])
