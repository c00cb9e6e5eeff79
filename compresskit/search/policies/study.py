"""A study of optuna that outlives its process and that several processes share.

What a trial draws depends only on the seed, its number and the finished trials, so a killed search goes on as if it had
not been killed. A choice is scored by the process that claims it first, and by no other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import InputError, first_line, require
from ..options import SearchOptions
from ..problem.evaluator import Rating
from ..problem.search_space import Problem
from ..problem.subject import Choice

#: seconds that a process waits for another one's write to a sqlite file
_PATIENCE = 60
#: how often a storage is opened anew when another process is just making its tables
_OPENINGS = 6


class SharedStudy:
    """The study of a search: in the given storage, else a sqlite file in the step's folder, else in memory.

    Args:
        problem: what is searched; finished trials of earlier runs and other processes are taken into its history.
        options: storage and name.
        sampler: seed -> a sampler of optuna.
        seed: of all that is drawn.
        objectives: 1 for the score, 2 for score and load.
    Raises:
        InputError: if the storage does not open, or the study there belongs to another search.
    """

    def __init__(
        self, problem: Problem, options: SearchOptions, sampler: Callable[[int], Any], seed: int, objectives: int
    ):  # fmt: skip
        optuna = require("optuna", "search")
        optuna.logging.set_verbosity(logging.WARNING)
        self._problem, self._objectives = problem, objectives
        self._states = optuna.trial.TrialState
        shared = options.storage is not None
        self._owner = f"{socket.gethostname()}:{problem.folder}" if problem.folder is not None else None
        self._study = _opened(problem, options, reproducible(sampler, seed), objectives)
        self._left_behind = [
            optuna.trial.Trial(self._study, trial._trial_id)
            for trial in self._trials(self._states.RUNNING)
            if not shared or (self._owner and _claim(trial).get("owner") == self._owner)
        ]
        self.take_in()
        if not self._study.trials:
            self._enqueue_uniform()

    def take_in(self) -> None:
        """Take what other processes, or this one before a kill, have found into the problem's history."""
        for trial in self._trials(self._states.COMPLETE):
            rating = Rating(trial.values[0], trial.user_attrs["divergence"])
            self._problem.adopt(_claim(trial)["choice"], rating)

    def claimed(self) -> tuple[Any, Choice] | None:
        """The next trial with a choice that nobody has scored or is scoring; None if that is not what was drawn."""
        trial = self._left_behind.pop(0) if self._left_behind else self._study.ask()
        places = self._problem.places
        drawn = [trial.suggest_int(_name(n, p), 0, len(p) - 1) for n, p in enumerate(places)]
        choice = _at_budget(self._problem, drawn)
        trial.set_user_attr("claim", {"owner": self._owner, "choice": list(choice)})
        # each looks after it has claimed: of two processes both may give a choice up, but never do both take it
        same = [
            other for other in self._trials(self._states.RUNNING, self._states.COMPLETE)
            if other.number != trial.number and _claim(other).get("choice") == list(choice)
        ]  # fmt: skip
        finished = [other for other in same if other.state == self._states.COMPLETE]
        if finished:
            trial.set_user_attr("divergence", finished[0].user_attrs["divergence"])
            trial.set_user_attr("repeats", finished[0].number)
            self._study.tell(trial, finished[0].values)
        elif same:
            self._study.tell(trial, state=self._states.FAIL)
        return None if same else (trial, choice)

    def tell(self, trial: Any, rating: Rating, load: float) -> None:
        """Note what a trial found."""
        trial.set_user_attr("divergence", rating.divergence)
        self._study.tell(trial, [rating.score, load][: self._objectives])

    def _trials(self, *states: Any) -> list[Any]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _enqueue_uniform(self) -> None:
        uniform = self._problem.uniform()
        places = enumerate(self._problem.places)
        self._study.enqueue_trial({_name(n, p): level for (n, p), level in zip(places, uniform, strict=True)})


def _claim(trial: Any) -> dict[str, Any]:
    """Who scores a trial, and what its choice is; empty before it has one."""
    return trial.user_attrs.get("claim", {})


def _name(number: int, place: Any) -> str:
    return f"{number} {place.name}"


def _at_budget(problem: Problem, levels: list[int]) -> Choice:
    """A choice scaled to the budget, up or down: what it leaves unspent would be lost."""
    return problem.fitted([place.shares[level] for place, level in zip(problem.places, levels, strict=True)])


# -- the storage -----------------------------------------------------------------------------------------------------


def _opened(problem: Problem, options: SearchOptions, sampler: Any, objectives: int) -> Any:
    """The study, made if it is not there."""
    optuna = require("optuna", "search")
    url, name = options.storage, options.study
    if url is None and problem.folder is not None:
        problem.folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{problem.folder / 'study.db'}"
    identity = _identity(problem, options)
    if options.target_drop is not None:  # which tries one budget after another
        name = f"{name}-{identity}"
    study = optuna.create_study(
        storage=_storage(url) if url else None, study_name=name, sampler=sampler, load_if_exists=True,
        directions=["maximize", "minimize"][:objectives],
    )  # fmt: skip
    known = study.user_attrs.get("search")
    if known not in (None, identity):
        raise InputError(
            f"study {name!r} in {url} belongs to a search with another policy, budget, model or space; "
            "give another name with study"
        )
    study.set_user_attr("search", identity)
    return study


def _identity(problem: Problem, options: SearchOptions) -> str:
    """Changes with all that makes trials of two searches incomparable."""
    places = [[place.name, *place.labels] for place in problem.places]
    # the budget as given: absolute limits move, and those in time are measured anew in each process
    limits = problem.limits if options.target_drop is not None else {}
    budget = [*sorted(options.budget().items()), options.target_drop]
    record = json.dumps([options.policy, places, budget, sorted(limits.items())])
    return hashlib.sha256(record.encode()).hexdigest()[:12]


def check_storage(url: str) -> None:
    """Whether a storage's URL is one, and its SQLite file can be one; nothing is made or connected to.

    Raises:
        InputError: if not.
    """
    engines = require("sqlalchemy", "search")
    failures = (require("sqlalchemy.exc", "search").SQLAlchemyError, sqlite3.Error, ImportError, ValueError)
    try:
        path = engines.create_engine(url).url.database if url.startswith("sqlite") else None
        if path is None:
            engines.create_engine(url)
        elif Path(path).exists():
            with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as connection:
                connection.execute("pragma schema_version")
        elif path != ":memory:" and not Path(path).absolute().parent.is_dir():
            raise InputError(f"storage {url!r}: folder {str(Path(path).parent)!r} does not exist")
    except failures as error:
        reason = first_line(error)
        raise InputError(f"storage {url!r} does not open: {reason}; e.g. sqlite:///study.db") from error


def _storage(url: str) -> Any:
    """A storage; making the tables is tried again where another process is just making them."""
    storages = require("optuna.storages", "search")
    failures = (require("sqlalchemy.exc", "search").SQLAlchemyError, sqlite3.Error, ImportError, ValueError)
    for left in reversed(range(_OPENINGS)):
        try:
            made = storages.RDBStorage(url, engine_kwargs=_sqlite(url)) if url.startswith("sqlite") else url
            return storages.get_storage(made)
        except failures as error:
            if not left:
                reason = first_line(error)
                raise InputError(f"storage {url!r} does not open: {reason}; e.g. sqlite:///study.db") from error
            time.sleep(0.3)
    return None


def _sqlite(url: str) -> dict[str, Any]:
    """Engine options of a sqlite file: writers wait for each other, and a commit does not wait for the disk."""
    path = require("sqlalchemy", "search").make_url(url).database or ":memory:"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        return connection

    return {"creator": connect}


# -- drawing ---------------------------------------------------------------------------------------------------------


def reproducible(make: Callable[[int], Any], seed: int) -> Any:
    """A sampler whose draws depend on the seed, the trial's number, the parameter and the trials that are finished.

    Args:
        make: seed -> the sampler that draws.
        seed: of this search.
    """
    base: Any = require("optuna.samplers", "search").BaseSampler

    def made(*numbers: int) -> Any:
        return make(int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0]))

    class Reproducible(base):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return made(trial.number).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return made(trial.number).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            own = made(trial.number, zlib.crc32(param_name.encode()))
            return own.sample_independent(study, trial, param_name, param_distribution)

    return Reproducible()
