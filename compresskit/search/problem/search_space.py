"""A search problem: places with levels, exact costs, and a score for every choice, remembered.

A *place* is one decision (a channel group, a layer); its *levels* run from the cheapest to the whole one. A *choice* is
one level for each place. Policies see nothing else, so every policy works on every technique.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import GuardMissed, InputError
from ...core.reporting.phases import advanced
from .evaluator import Rater, Rating
from .score_cache import remember, remembered
from .subject import Choice, Subject
from .worker_pool import RatingRequest, WorkerPool


@dataclass(frozen=True)
class Trial:
    """One scored candidate."""

    number: int
    choice: Choice
    score: float
    divergence: float
    costs: dict[str, float]  # shares of the whole
    seconds: float  # since the search began
    source: str  # the policy that asked for it


class Problem:
    """Places, budget and scores.

    Args:
        subject: the technique on the model.
        limits: cost -> largest absolute figure.
        rater: rates modules on held-out data.
        trials: candidates to score at most.
        seconds: time to spend at most; None for no limit.
        log: prints a line of progress.
        folder: where ratings outlive a kill; None keeps them in this process only.
        source: the policy's name, for the record.
        clock: what time is measured by; a shared machine is better judged by its processor time.
        team: workers that rate candidates; None rates them here.
    """

    def __init__(
        self, subject: Subject, limits: dict[str, float], rater: Rater, *, trials: int,
        seconds: float | None = None, log: Callable[[str], None] = lambda line: None, folder: Path | None = None,
        source: str = "",
        clock: Callable[[], float] = time.perf_counter, team: WorkerPool | None = None,
    ):  # fmt: skip
        self.subject = subject
        self.places = subject.places
        self.limits = dict(limits)
        self.whole = subject.whole_costs()
        self.history: list[Trial] = []
        self.trials = trials
        self.seconds = seconds
        self.log = log
        self.source = source
        self.rater = rater
        self.team = team
        self._seen: dict[Choice, Trial] = {}
        self.folder = folder
        self._memory = folder / "ratings.jsonl" if folder is not None else None
        self._remembered = remembered(self._memory)
        self._carried = 0.0  # seconds that remembered ratings took in an earlier run
        self._clock = clock
        self._begin = clock()
        self.notes: list[str] = []
        self._probes: dict[tuple[int, int], float] = {}
        self._check_reachable()

    def _check_reachable(self) -> None:
        least = self.subject.costs(self.smallest())
        for name, limit in self.limits.items():
            if name not in self.whole:
                raise InputError(f"budget: {name} does not apply here; choose from {', '.join(self.whole)}")
            if least[name] > limit * (1 + 1e-9):
                raise GuardMissed(
                    f"budget: {name} cannot come down to {limit:,.6g} here: the smallest choice leaves "
                    f"{least[name]:,.6g} of {self.whole[name]:,.6g}; lower min_keep_ratio, or allow more"
                )

    # -- choices ------------------------------------------------------------------------------------------------------

    def smallest(self) -> Choice:
        """The cheapest level everywhere."""
        return (0,) * len(self.places)

    def largest(self) -> Choice:
        """The last level everywhere."""
        return tuple(len(place) - 1 for place in self.places)

    def loads(self, choice: Sequence[int]) -> list[float]:
        """Each cost relative to its limit; at most 1 within the budget."""
        costs = self.subject.costs(tuple(choice))
        return [costs[name] / limit for name, limit in self.limits.items()]

    def load(self, choice: Sequence[int]) -> float:
        """The largest cost relative to its limit; at most 1 within the budget."""
        return max(self.loads(choice), default=0.0)

    def fits(self, choice: Sequence[int]) -> bool:
        """Whether a choice is within the budget."""
        return self.load(choice) <= 1 + 1e-9

    def nearest_levels(self, shares: Sequence[float]) -> Choice:
        """The nearest level of each place to a wanted share."""
        return tuple(place.nearest(share) for place, share in zip(self.places, shares, strict=True))

    def fitted(self, shares: Sequence[float], order: Iterable[int] | None = None) -> Choice:
        """Shares scaled by one factor to the largest choice within the budget; what is left is then given out.

        Args:
            shares: relative shares of the places, positive.
            order: places in the order in which they are given single steps back; default as they stand.
        """
        wanted = np.asarray(shares, dtype=np.float64)
        low, high = 0.0, 1 / max(wanted.min(), 1e-6)
        if self.fits(choice := self.nearest_levels(np.minimum(wanted * high, 1).tolist())):
            return choice
        for _ in range(30):
            middle = (low + high) / 2
            if self.fits(self.nearest_levels(np.minimum(wanted * middle, 1).tolist())):
                low = middle
            else:
                high = middle
        return self.filled(self.nearest_levels(np.minimum(wanted * low, 1).tolist()), order)

    def uniform(self) -> Choice:
        """The same share at every place, as large as the budget allows."""
        return self.fitted([1.0] * len(self.places))

    def filled(self, choice: Sequence[int], order: Iterable[int] | None = None) -> Choice:
        """A choice with single steps added, place by place in turn, while they fit."""
        levels = list(choice)
        free = list(range(len(levels)) if order is None else order)
        while free:
            for place in list(free):
                raised = [*levels[:place], levels[place] + 1, *levels[place + 1 :]]
                if raised[place] < len(self.places[place]) and self.fits(raised):
                    levels = raised
                else:
                    free.remove(place)
        return tuple(levels)

    # -- scores -------------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds since the search began, what a killed run had spent included."""
        return self._clock() - self._begin + self._carried

    def done(self) -> bool:
        """Whether the budget of trials or time is used up."""
        return len(self.history) >= self.trials or self.out_of_time()

    def out_of_time(self) -> bool:
        """Whether the time is used up."""
        return self.seconds is not None and self.elapsed >= self.seconds

    def time_share(self) -> float:
        """Share of the time that is used up; 0 without a limit."""
        return self.elapsed / self.seconds if self.seconds else 0.0

    @contextmanager
    def limited(self, share: float) -> Iterator[None]:
        """A share of trials and time as the limit, while the context is open."""
        trials, seconds = self.trials, self.seconds
        self.trials = max(1, round(trials * share))
        self.seconds = None if seconds is None else seconds * share
        try:
            yield
        finally:
            self.trials, self.seconds = trials, seconds

    def room(self) -> int:
        """How many candidates may be scored at once: as many as there are workers, and no more than trials are left."""
        return max(1, min(self.team.size if self.team else 1, self.trials - len(self.history)))

    def evaluate(self, choice: Sequence[int]) -> Trial:
        """Score a choice; one that was scored before costs nothing."""
        return self.evaluate_all([choice])[0]

    def evaluate_all(self, choices: Iterable[Sequence[int]]) -> list[Trial]:
        """Score choices, at once where there are workers; those that were scored before cost nothing."""
        wanted = [tuple(int(level) for level in choice) for choice in choices]
        new = [choice for choice in dict.fromkeys(wanted) if choice not in self._seen]
        for choice, (rating, seconds) in zip(new, self._rated([RatingRequest(choice) for choice in new]), strict=True):
            self._record(choice, rating, seconds)
        return [self._seen[choice] for choice in wanted]

    def adopt(self, choice: Sequence[int], rating: Rating) -> None:
        """Take in what another process found."""
        choice = tuple(int(level) for level in choice)
        if choice in self._remembered:
            self.evaluate(choice)  # this one's own, from before a kill
        elif choice not in self._seen:
            self._record(choice, rating, 0.0)

    def _rated(self, jobs: Sequence[RatingRequest]) -> Iterator[tuple[Rating, float]]:
        """Rating of each job and the seconds that it took; what an earlier run found is remembered."""
        new = [job for job in jobs if job.key not in self._remembered]
        fresh = self._from_team(new) if self.team and new else map(self._rated_here, new)
        for job in jobs:
            if job.key in self._remembered:
                rating, seconds = self._remembered[job.key]
                self._carried += seconds
            else:
                rating, seconds = next(fresh)
                remember(self._memory, job, rating, seconds)
            yield rating, seconds

    def _rated_here(self, job: RatingRequest) -> tuple[Rating, float]:
        begin = self._clock()
        rating = job.rate(self.subject, self.rater)
        return rating, self._clock() - begin

    def _from_team(self, jobs: Sequence[RatingRequest]) -> Iterator[tuple[Rating, float]]:
        if self.team is None:
            raise TypeError("this problem has no workers")
        begin = self._clock()
        ratings = self.team.rate(self.subject, self.rater, jobs)
        seconds = (self._clock() - begin) / len(jobs)
        return iter([(rating, seconds) for rating in ratings])

    def _record(self, choice: Choice, rating: Rating, seconds: float) -> None:
        costs = self.subject.costs(choice)
        shares = {name: costs[name] / whole for name, whole in self.whole.items() if whole}
        trial = Trial(
            len(self.history), choice, rating.score, rating.divergence, shares, round(self.elapsed, 3), self.source
        )
        self.history.append(trial)
        advanced()
        self._seen[choice] = trial
        best = self.best()
        count, took = len(self.history), self.elapsed
        left = took / count * (self.trials - count)
        if self.seconds is not None:
            left = min(left, self.seconds - took)
        self.log(
            f"{self.source} {count}/{self.trials}: score {rating.score:.4f}, "
            f"best {f'{best.score:.4f}' if best else 'none in budget'}, "
            f"{seconds:.1f} s, at most {max(left, 0):.0f} s to go"
        )

    def best(self) -> Trial | None:
        """The best trial within the budget: highest score, then smallest divergence."""
        found = [trial for trial in self.history if self.fits(trial.choice)]
        return max(found, key=lambda trial: (trial.score, -trial.divergence, -trial.number), default=None)

    def probe(self, place: int, level: int) -> float:
        """Divergence of the model when this place alone stands at a level and all others are whole."""
        return self.probe_all([(place, level)])[0]

    def probe_all(self, points: Sequence[tuple[int, int]]) -> list[float]:
        """`probe` of each (place, level), at once where there are workers."""
        new = [point for point in dict.fromkeys(points) if point not in self._probes]
        jobs = [RatingRequest(replaced(self.largest(), *point), probed=point) for point in new]
        for point, (rating, _) in zip(new, self._rated(jobs), strict=True):
            self._probes[point] = rating.divergence
            if len(self._probes) % 20 == 0:
                self.log(f"probed {len(self._probes)} levels, {self.elapsed:.0f} s")
        return [self._probes[point] for point in points]

    def pareto(self) -> list[Trial]:
        """Trials that no other beats in both the score and the load, cheapest first."""
        front: list[Trial] = []
        for trial in sorted(self.history, key=lambda t: (self.load(t.choice), -t.score, t.number)):
            if not front or trial.score > front[-1].score:
                front.append(trial)
        return front


def replaced(choice: Choice, place: int, level: int) -> Choice:
    """A choice with another level at one place."""
    return (*choice[:place], level, *choice[place + 1 :])
