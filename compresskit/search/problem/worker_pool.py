"""Workers that rate candidates at once, through Ray; the search itself stays in one process and only hands out choices.

Every worker holds the same subject and rater as the search, so a candidate is built and scored alike wherever that
happens. What is found is noted by the search, so trials, a kill and --resume work as without workers.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import isclass, isroutine
from pathlib import Path
from pickle import PicklingError
from typing import Any

import torch

from ...core.errors import CompresskitError, InputError, first_line, require
from ...core.registry import Registry, Row
from ...core.user_code.in_memory import named_objects, open_objects
from ...training.context import Context
from .evaluator import Rater, Rating
from .subject import Subject

#: how often a lost worker is started again, and a candidate that it had in hand given out again
_RESTARTS = 3


@dataclass(frozen=True)
class RatingRequest:
    """One candidate to rate.

    Attributes:
        choice: what is built.
        probed: the (place, level) that is probed; None where the candidate is scored.
    """

    choice: tuple[int, ...]
    probed: tuple[int, int] | None = None

    @property
    def key(self) -> Any:
        """What the rating is remembered by."""
        return self.choice if self.probed is None else ("probe", *self.probed)

    def record(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return {"choice": self.choice} if self.probed is None else {"probe": list(self.probed)}

    def rate(self, subject: Subject, rater: Rater) -> Rating:
        """Build the candidate and rate it."""
        module = subject.build(self.choice)
        return rater.rate(module) if self.probed is None else rater.probe(module)


@dataclass(frozen=True)
class Session:
    """What names mean in the searching process besides the package's own rows.

    Attributes:
        rows: (module and attribute of a registry, name, row, target) of each row that was registered from Python.
        objects: functions and classes that stand as `in-memory:NAME` in options.
        folder: the working directory, which files of rows (`file.py:name`) are relative to.
        path: where modules of rows (`package.module:name`) are imported from.
    """

    rows: list[tuple[str, str, str, Row, Any]]
    objects: dict[str, Any]
    folder: str
    path: list[str]

    @classmethod
    def here(cls) -> Session:
        """That of this process."""
        rows = [
            (module.__name__, attribute, name, row, target)
            for module in list(sys.modules.values())
            if getattr(module, "__name__", "").startswith("compresskit.")
            for attribute, found in vars(module).items()
            if isinstance(found, Registry)
            for name, (row, target) in found.registered().items()
        ]
        objects = {name: found for name, found in open_objects().items() if isroutine(found) or isclass(found)}
        return cls(rows, objects, str(Path.cwd()), [entry for entry in sys.path if entry])

    def enter(self) -> None:
        """Let the names mean the same in this process."""
        if Path(self.folder).is_dir():  # else another machine; a file that it lacks is named when it is read
            os.chdir(self.folder)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        for module, attribute, name, row, target in self.rows:
            registry: Registry[Any] = getattr(importlib.import_module(module), attribute)
            registry.register(name, target, help=row.help, source=row.source, needs=row.needs)


class WorkerPool:
    """Ray workers, started when they are first needed and ended with the context.

    Without an address in RAY_ADDRESS a cluster of this machine alone is started, and stopped again.

    Args:
        size: workers.
    """

    def __init__(self, size: int):
        self.size = size
        self._ray = require("ray", "ray")
        self._subject: Subject | None = None
        self._sent: Any = None
        self._workers: list[Any] = []
        self._own_connection = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        if self._own_connection:
            self._ray.shutdown()

    def rate(self, subject: Subject, rater: Rater, jobs: Sequence[RatingRequest]) -> list[Rating]:
        """The rating of each job, each done by the worker that is free first.

        Raises:
            InputError: if there is no cluster, it is too small, or the subject cannot be sent there.
        """
        if self._subject is not subject:
            self._send(subject, rater)
        pool = self._ray.util.ActorPool(self._workers)
        sent = [self._sent]  # in a list, so that Ray does not send it along with every job
        try:
            return list(pool.map(lambda worker, job: worker.rate.remote(sent, job), jobs))
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CompresskitError):  # Ray's own says the traceback, too
                raise error.cause from None
            raise

    def _send(self, subject: Subject, rater: Rater) -> None:
        packed = _packed((Session.here(), subject, rater), self._ray.cloudpickle)
        if not self._workers:
            self._start("GPU" if rater.device.type == "cuda" else "CPU")
        self._sent, self._subject = self._ray.put(packed), subject

    def _start(self, device: str) -> None:
        self._connect()
        have = int(self._ray.cluster_resources().get(device, 0))
        if have < self.size:
            raise InputError(
                f"ray: {self.size} workers need a {device} each, the cluster has {have}; give a smaller ray"
            )
        made = self._ray.remote(_Worker).options(
            num_cpus=1, num_gpus=int(device == "GPU"), max_restarts=_RESTARTS, max_task_retries=_RESTARTS
        )
        self._workers = [made.remote() for _ in range(self.size)]

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a search calls nobody
        # at Ray's own 15 a busy machine starves the workers: 146 s, not 8, until they have imported torch
        os.environ.setdefault("RAY_worker_niceness", "0")
        alone = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": self.size, "include_dashboard": False}
        try:
            self._ray.init(configure_logging=False, log_to_driver=False, **alone)
        except Exception as error:  # Ray raises plain ones where a node does not start
            raise InputError(f"ray: no cluster: {first_line(error)}; check RAY_ADDRESS") from error
        self._own_connection = True


class _Worker:
    """Lives in another process with a copy of the subject; one that was started anew fetches it again."""

    def __init__(self):
        torch.set_num_threads(1)
        self._sent: Any = None
        self._parts: Any = None
        self._objects: dict[str, Any] = {}

    def rate(self, sent: list[Any], job: RatingRequest) -> Rating:
        """Rate a candidate of the subject that was sent."""
        if self._sent != sent[0]:
            ray = require("ray", "ray")
            # what Ray itself would do with objects, but with arrays that can be written to
            session, *self._parts = ray.cloudpickle.loads(ray.get(sent[0]))
            session.enter()
            self._objects, self._sent = session.objects, sent[0]
        with named_objects(self._objects):
            return job.rate(*self._parts)


def _packed(parts: Any, cloudpickle: Any) -> bytes:
    """Parts as bytes, their contexts without what only the searching process can use."""
    for name, module in sys.modules.items():
        if name.startswith("_compresskit_"):  # the user's file, which workers cannot import by name
            cloudpickle.register_pickle_by_value(module)

    class Pickler(cloudpickle.CloudPickler):
        def reducer_override(self, one: Any) -> Any:
            return _reduced(one) if isinstance(one, Context) else super().reducer_override(one)

    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(parts)
    except (PicklingError, TypeError, AttributeError) as error:
        raise InputError(f"ray: this model or data cannot be sent to workers: {error}") from error
    return buffer.getvalue()


def _reduced(context: Context) -> tuple[Any, tuple]:
    bare = replace(context, log=_silent, recover=None, load=None, folder=None)
    return _rebuilt, (vars(bare),)


def _rebuilt(fields: dict[str, Any]) -> Context:
    return Context(**fields)


def _silent(line: str) -> None:
    """Workers say nothing."""
