"""A subject without a model: known costs, known losses, so that policies can be compared with the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn

from compresskit.search.problem.evaluator import Rating
from compresskit.search.problem.search_space import Problem
from compresskit.search.problem.subject import Place


class Candidate(nn.Module):
    def __init__(self, choice):
        super().__init__()
        self.choice = choice


class ToySubject:
    """Places whose loss is weight * (1 - share)^2, and whose cost is weighted shares."""

    def __init__(self, weights=(1.0, 4.0, 0.5, 2.0), sizes=(1.0, 1.0, 2.0, 1.0), levels=5):
        shares = tuple(np.linspace(0.2, 1, levels).tolist())
        self.weights, self.sizes = weights, sizes
        self.places = [
            Place(f"layer{n}", shares, tuple(f"{s:.1f}" for s in shares), {"c": 8.0 * s, "cost_share": s / sum(sizes)})
            for n, s in enumerate(sizes)
        ]  # fmt: skip
        self.notes = []
        self.built = 0

    def kept(self, choice):
        return [place.shares[level] for place, level in zip(self.places, choice, strict=True)]

    def costs(self, choice):
        return {"macs": sum(size * share for size, share in zip(self.sizes, self.kept(choice), strict=True))}

    def whole_costs(self):
        return {"macs": float(sum(self.sizes))}

    def loss(self, choice):
        return sum(w * (1 - share) ** 2 for w, share in zip(self.weights, self.kept(choice), strict=True))

    def errors(self, place):
        return [self.weights[place] * (1 - share) ** 2 for share in self.places[place].shares]

    def build(self, choice):
        self.built += 1
        return Candidate(choice)

    def steps(self, choice):
        return [{"prune": {"ratios": {p.name: 1 - s for p, s in zip(self.places, self.kept(choice), strict=True)}}}]


class ToyRater:
    device = torch.device("cpu")

    def __init__(self, subject):
        self.subject = subject

    def rate(self, module):
        loss = self.subject.loss(module.choice)
        return Rating(1 - loss / 10, loss)

    probe = rate


def toy_problem(budget=0.6, trials=40, **options):
    subject = ToySubject(**{k: options.pop(k) for k in ("weights", "sizes", "levels") if k in options})
    return Problem(subject, {"macs": budget * sum(subject.sizes)}, ToyRater(subject), trials=trials, **options)


def best_possible(problem):
    choices = itertools.product(*(range(len(place)) for place in problem.places))
    return min(problem.subject.loss(choice) for choice in choices if problem.fits(choice))
