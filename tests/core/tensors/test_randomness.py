import random

import numpy as np
import torch

from compresskit.core.tensors.randomness import random_states, same_draws


def drawn():
    return random.random(), np.random.rand(), torch.rand(3).tolist(), torch.randn(20).tolist()


def test_the_same_numbers_are_drawn_each_time_and_none_outside():
    before = random_states()
    with same_draws():
        first = drawn()
    with same_draws(1):
        other = drawn()
    with same_draws():
        again = drawn()
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))
    assert random_states() == before


def test_states_tell_how_much_was_drawn():
    states = []
    for draw in (torch.rand, torch.rand, lambda n: torch.rand(n + 1), np.random.rand, lambda n: random.random()):
        with same_draws():
            draw(20)
            states.append(random_states())
    assert states[0] == states[1] and all(a != b for i, a in enumerate(states[1:]) for b in states[i + 2 :])
