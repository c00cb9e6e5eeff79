"""`transform`: a small network grows by transformations that keep its function, and is trained on from there.

Source: Cai, Chen, Zhang, Yu & Wang, "Efficient Architecture Search by Network Transformation", AAAI 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....core.errors import GuardMissed
from ....core.tensors.randomness import manual_seed
from ....core.types import Loaded, to_device
from ....model.chain import Chain
from ..net2net import deepened, widened
from ..session import Session
from ..space import ChainSpace, layers_of, next_width
from .reinforce import Reinforce, Rollout
from .rewards import accuracy_reward

HIDDEN = 50
KERNELS = (1, 3, 5)
#: rounds of widening and deepening that one child goes through; fewer would leave most of a budget unused
_ROUNDS = 4
#: share of the search in which children grow from the seed; later they grow from the best that has room left
_SEED_SHARE = 0.3
_ROOM = 0.8  # of the budget
_SEED_STEPS = 2  # the seed is trained this many times as long as a child
_EXAMPLES = 64
_TOKENS = 4  # operation, width, kernel, resolution

Layers = list[dict[str, Any]]


class GrowthPolicy(nn.Module):
    """A bidirectional LSTM over the layers, an actor that widens and one that deepens.

    The widening actor decides for each layer; the deepening one decides in turn the block (the layers of one
    resolution), the layer in it, and the kernel, or that nothing is put in.
    """

    def __init__(self, most_layers: int):
        super().__init__()
        self.encoder = nn.LSTM(_TOKENS, HIDDEN, bidirectional=True)
        self.widen = nn.Linear(2 * HIDDEN, 2)
        self.decoder = nn.LSTMCell(HIDDEN, 2 * HIDDEN)
        self.block = nn.Linear(2 * HIDDEN, most_layers + 1)  # the last choice: no layer
        self.layer = nn.Linear(2 * HIDDEN, most_layers)
        self.kernel = nn.Linear(2 * HIDDEN, len(KERNELS))
        self.embed = nn.Embedding(most_layers + 1, HIDDEN)

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(layers, tokens) -> states of the layers (layers, 2 * hidden), and of the whole (2 * hidden,)."""
        states, (last, _) = self.encoder(tokens)
        return states, last.flatten()


def tokens_of(layers: Layers, input_shape: Sequence[int]) -> Tensor:
    """What the encoder reads: a row for each layer with its operation, width, kernel and resolution; (layers, 4)."""
    rows, side = [], input_shape[1]
    for layer in layers:
        if layer["op"] == "pool":
            side //= 2
            rows.append([1.0, 0.0, 0.0, side / input_shape[1]])
        else:
            rows.append(
                [
                    0.0,
                    torch.log2(torch.tensor(float(layer["out"]))).item() / 8,
                    layer["kernel"] / 5,
                    side / input_shape[1],
                ]
            )
    return torch.tensor(rows)


def blocks_of(layers: Layers) -> list[list[int]]:
    """Positions of the convolutions at each resolution."""
    blocks: list[list[int]] = [[]]
    for position, layer in enumerate(layers):
        if layer["op"] == "pool":
            blocks.append([])
        else:
            blocks[-1].append(position)
    return [block for block in blocks if block]


def transform(session: Session) -> None:
    """Grow a seed network; children inherit weights, are trained briefly, and reward the policy."""
    space = ChainSpace(session.teacher)
    options = session.options
    seed = space.seed(min(options.widths))
    if not session.fits(space.costs(seed)):
        raise GuardMissed(
            f"budget: the smallest network costs {session.load(space.costs(seed)):.3g} times what is allowed; "
            "give smaller widths, or allow more"
        )
    with torch.random.fork_rng(devices=[]):
        manual_seed(session.context.seed)
        policy = GrowthPolicy(options.slots)
    session.agents = {"growth": Reinforce(policy)}
    if not session.restore():
        _train_seed(session, space, seed)
    context = session.context
    batches = context.needs_data().calibration(_EXAMPLES, batch_size=_EXAMPLES, seed=context.seed)
    examples = to_device(batches[0], context.device)

    def propose() -> tuple[Rollout, float]:
        start = _start(session)
        rollout = Rollout()
        child, layers = grown(session, space, policy, start, rollout, examples)
        score = session.score_after_training(child)
        reward = accuracy_reward(score, session.samples)
        made = session.record(layers, space.costs(layers), reward, score=score, trained=child)
        _keep_if_roomy(session, made.score or 0.0, child, space)
        return rollout, reward

    session.episodes(1.0, propose, session.agents["growth"], options.children)


def _train_seed(session: Session, space: ChainSpace, seed: Layers) -> None:
    start = space.load(seed, session.context.seed)
    session.train_briefly(start, steps=_SEED_STEPS * session.options.child_steps)
    score = session.rate(start.module)
    reward = accuracy_reward(score, session.samples)
    session.models["seed"] = start
    session.record(seed, space.costs(seed), reward, score=score, trained=start)
    session.save()


def _start(session: Session) -> Loaded:
    """What the next child grows from."""
    late = session.progress() >= _SEED_SHARE and "roomy" in session.models
    return session.models["roomy" if late else "seed"]


def _keep_if_roomy(session: Session, score: float, child: Loaded, space: ChainSpace) -> None:
    roomy = session.load(space.costs(layers_of(child))) <= _ROOM
    if roomy and score > session.state.get("roomy", -1.0):
        session.state["roomy"] = score
        session.models["roomy"] = child


def grown(
    session: Session, space: ChainSpace, policy: GrowthPolicy, start: Loaded, rollout: Rollout, examples: Tensor
) -> tuple[Loaded, Layers]:
    """A child of a network: a few rounds of widening and deepening, never beyond the budget.

    Returns:
        the child, with its parent's function, and its description.
    """
    layers, net = layers_of(start), start.clone().module
    for _ in range(_ROUNDS):
        _widen(session, space, policy, net, layers, rollout)
        _deepen(session, space, policy, net, layers, rollout, examples)
    if not isinstance(net, Chain):
        raise TypeError(f"a network of the search is a {type(net).__name__}")
    return space.wrap(net, layers), layers


def _widen(
    session: Session, space: ChainSpace, policy: GrowthPolicy, net: Any, layers: Layers, rollout: Rollout
) -> None:  # fmt: skip
    states, _ = policy.encode(tokens_of(layers, space.input_shape))
    for position, layer in enumerate(layers):
        if layer["op"] == "pool":
            continue
        wanted = next_width(layer["out"], session.options.widths)
        wider = [*layers[:position], {**layer, "out": wanted}, *layers[position + 1 :]]
        if wanted is None or not session.fits(space.costs(wider)):
            continue
        if rollout.draw(policy.widen(states[position]), session.generator):
            layers[:] = wider
            widened(net, position, wanted, session.generator)


def _deepen(
    session: Session, space: ChainSpace, policy: GrowthPolicy, net: Any, layers: Layers, rollout: Rollout,
    examples: Tensor,
) -> None:  # fmt: skip
    blocks = blocks_of(layers)
    able = [[_kernels_that_fit(session, space, layers, position) for position in block] for block in blocks]
    most = policy.layer.out_features
    if sum(map(len, blocks)) >= most:
        return
    allowed = [any(map(any, block)) for block in able]
    if not any(allowed):
        return
    _, whole = policy.encode(tokens_of(layers, space.input_shape))
    hidden = policy.decoder(policy.embed(torch.tensor(most)), (whole, torch.zeros_like(whole)))
    none = most
    block = rollout.draw(policy.block(hidden[0]), session.generator, _padded(allowed, most) + [True])
    if block == none:
        return
    hidden = policy.decoder(policy.embed(torch.tensor(block)), hidden)
    layer = rollout.draw(policy.layer(hidden[0]), session.generator, _padded([any(k) for k in able[block]], most))
    hidden = policy.decoder(policy.embed(torch.tensor(layer)), hidden)
    kernel = KERNELS[rollout.draw(policy.kernel(hidden[0]), session.generator, able[block][layer])]
    position = blocks[block][layer]
    layers.insert(position + 1, {"op": "conv", "out": layers[position]["out"], "kernel": kernel})
    deepened(net, position, kernel, examples)


def _kernels_that_fit(session: Session, space: ChainSpace, layers: Layers, position: int) -> list[bool]:
    """Of each kernel whether a layer with it after this one stays within the budget."""
    return [
        session.fits(space.costs([
            *layers[: position + 1], {"op": "conv", "out": layers[position]["out"], "kernel": kernel},
            *layers[position + 1 :],
        ]))
        for kernel in KERNELS
    ]  # fmt: skip


def _padded(allowed: list[bool], length: int) -> list[bool]:
    return allowed + [False] * (length - len(allowed))
