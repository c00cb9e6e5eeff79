"""Policies of an agent that goes through the places one by one: AMC's shares and HAQ's bits."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ..options import SearchOptions
from ..problem.search_space import Problem
from ..problem.subject import Choice
from .agent import Agent, own_randomness
from .environment import BoundedWalk, LoweredWalk, Walk, Walks, reward_of

#: episodes of warm-up at most
_WARMUP = 100


def amc(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """AMC: a ratio for each place in turn, bounded so that the budget can still be met.

    Source: He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV 2018, section 3,
    algorithm 1.
    """
    return _episodes(problem, generator, options, BoundedWalk)


def haq(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """HAQ: a width for each layer in turn, then widths lowered from the last layer on until the budget is met.

    Source: Wang et al., "HAQ: Hardware-Aware Automated Quantization With Mixed Precision", CVPR 2019,
    section 3. Candidates are rounded after training and not retrained, which the paper does for an epoch each.
    """
    return _episodes(problem, generator, options, LoweredWalk)


def _episodes(
    problem: Problem, generator: np.random.Generator, options: SearchOptions, walk: Callable[[Problem], Walk]
) -> Choice:
    """Episodes until the budget of trials or time is used up: noise alone first, then noise that decays.

    The first episode makes the uniform choice, so that none is worse than that on the held-out examples. Where workers
    score several candidates at once, as many walks go side by side, and the agent learns from all.
    """
    number, at_once, steps = len(problem.history), problem.room(), 0

    def warms_up() -> bool:
        return max(problem.time_share(), number / problem.trials) < options.warmup and number < _WARMUP

    def goes_on(_locals: dict, _globals: dict) -> bool:
        nonlocal number, steps
        steps += 1
        if steps % len(problem.places):
            return True
        number += at_once
        agent.end_episodes(at_once, warming=warms_up())
        return number + at_once <= problem.trials and not problem.out_of_time()

    with own_randomness():
        walks = Walks(lambda: walk(problem), at_once, lambda trial: reward_of(trial, problem, options.reward))
        walks.walks[0].show(problem.uniform())
        agent = Agent(walks, seed=int(generator.integers(2**31)))
        agent.warming = warms_up()
        if number < problem.trials and not problem.out_of_time():
            agent.learn(at_once * len(problem.places) * problem.trials, callback=goes_on, log_interval=sys.maxsize)
    best = problem.best()
    return best.choice if best else problem.uniform()
