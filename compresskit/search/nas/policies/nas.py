"""`nas`: a recurrent controller writes a network down, decision by decision; all networks share one set of weights.

Source: Zoph & Le, "Neural Architecture Search with Reinforcement Learning", ICLR 2017 (controller); Pham et al.,
"Efficient Neural Architecture Search via Parameter Sharing", ICML 2018 (shared weights).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ....core.errors import GuardMissed
from ....core.tensors.randomness import manual_seed
from ....model.chain import chain
from ..session import Session
from ..shared import Placed, SharedWeights
from ..space import ChainSpace, next_width
from .reinforce import Reinforce, Rollout

HIDDEN = 64
#: what may stand in a slot; the choice after the last leaves the slot empty
CHOICES = (("conv", 1), ("conv", 3), ("conv", 5), ("separable", 3), ("separable", 5))
_SMALLEST_SIDE = 2
_RATE, _ENTROPY = 1e-2, 0.003


class Controller(nn.Module):
    """An LSTM that decides for each slot the operation, the width, and whether a pool follows; it reads each decision.

    Args:
        slots: how many.
        widths: how many to choose from.
    """

    def __init__(self, slots: int, widths: int):
        super().__init__()
        sizes = {"operation": len(CHOICES) + 1, "width": widths, "pool": 2}
        self.begin = nn.Parameter(torch.zeros(HIDDEN))
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.heads = nn.ModuleDict({kind: nn.Linear(HIDDEN, size) for kind, size in sizes.items()})
        self.embeddings = nn.ModuleDict({kind: nn.Embedding(size, HIDDEN) for kind, size in sizes.items()})
        self.places = nn.Embedding(slots, HIDDEN)


class Writer:
    """One run of the controller: keeps its state and draws its decisions."""

    def __init__(self, controller: Controller, generator: torch.Generator):
        self._controller, self._generator = controller, generator
        self.rollout = Rollout()
        self._hidden = (torch.zeros(HIDDEN), torch.zeros(HIDDEN))
        self._seen: Tensor = controller.begin

    def decide(self, kind: str, slot: int, allowed: list[bool]) -> int:
        """Draw a decision; one without a choice is made without drawing."""
        own = self._controller
        self._hidden = own.cell(self._seen + own.places(torch.tensor(slot)), self._hidden)
        if sum(allowed) == 1:
            action = allowed.index(True)
        else:
            action = self.rollout.draw(own.heads[kind](self._hidden[0]), self._generator, allowed)
        self._seen = own.embeddings[kind](torch.tensor(action))
        return action


def written(session: Session, space: ChainSpace, controller: Controller) -> tuple[Rollout, Placed]:
    """A network drawn from the controller, within the budget: what would exceed it is never among the choices."""
    writer, widths = Writer(controller, session.generator), sorted(session.options.widths)
    network: list[tuple[int | None, dict[str, Any]]] = []
    side = min(space.input_shape[1:])

    def fits(layer: dict[str, Any]) -> bool:
        return session.fits(space.costs([*(own for _, own in network), layer]))

    for slot in range(session.options.slots):
        able = [fits({"op": op, "out": widths[0], "kernel": kernel}) for op, kernel in CHOICES]
        choice = writer.decide("operation", slot, [*able, bool(network)])
        if choice < len(CHOICES):
            operation, kernel = CHOICES[choice]
            layers = [{"op": operation, "out": width, "kernel": kernel} for width in widths]
            width = writer.decide("width", slot, [fits(layer) for layer in layers])
            network.append((slot, layers[width]))
        if writer.decide("pool", slot, [True, side // 2 >= _SMALLEST_SIDE]):
            network.append((None, {"op": "pool"}))
            side //= 2
    while network[-1][0] is None:  # a pool before the global average changes little, and costs nothing to leave out
        network.pop()
    return writer.rollout, widened_to_fit(session, space, network)


def widened_to_fit(session: Session, space: ChainSpace, network: Placed) -> Placed:
    """A network whose layers take the next listed width in turn, the last one first, while the budget allows it.

    The controller's widths thus count relative to each other; without this most of what it draws leaves the budget
    unused and loses to wider networks for that reason alone.
    """
    found = [(slot, dict(layer)) for slot, layer in network]
    free = [place for place, (_, layer) in reversed(list(enumerate(found))) if "out" in layer]
    while free:
        for place in list(free):
            slot, layer = found[place]
            wanted = next_width(layer["out"], session.options.widths)
            wider = [*found[:place], (slot, {**layer, "out": wanted}), *found[place + 1 :]]
            if wanted is not None and session.fits(space.costs([own for _, own in wider])):
                found = wider
            else:
                free.remove(place)
    return found


def nas(session: Session) -> None:
    """Write networks and train each briefly from the shared weights, which learn with it.

    Pham et al. change the network at every training step and score it untrained; in chains, whose layers read whatever
    stands before them, that left networks near chance, so a network keeps the weights for a whole brief training.
    """
    space, options = ChainSpace(session.teacher), session.options
    if not session.fits(space.costs([{"op": "separable", "out": min(options.widths), "kernel": 3}])):
        raise GuardMissed("budget: not even one layer of the smallest width fits; give smaller widths, or allow more")
    with torch.random.fork_rng(devices=[]):
        manual_seed(session.context.seed)
        controller = Controller(options.slots, len(options.widths))
        shared = SharedWeights(CHOICES, options.slots, max(options.widths), space.input_shape[0], space.num_classes)
    session.agents = {"controller": Reinforce(controller, rate=_RATE, entropy=_ENTROPY)}
    session.extra = {"shared": shared.to(session.context.device)}
    session.restore()

    def propose() -> tuple[Rollout, float]:
        rollout, network = written(session, space, controller)
        layers = [layer for _, layer in network]
        net = chain(**space.arguments(layers))
        child = space.wrap(net, layers)
        shared.lend(net, network)
        score = session.score_after_training(child)
        if score > 0:  # what diverged is not shared
            shared.take_back(net, network)
        session.record(layers, space.costs(layers), score, score=score, trained=child)
        return rollout, score

    session.episodes(1.0, propose, session.agents["controller"], options.children)
