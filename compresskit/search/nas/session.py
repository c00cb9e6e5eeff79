"""One architecture search: the teacher, the budget, brief trainings, scores, and all that outlives a kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...artifact.edits import replay
from ...core.errors import Diverged, GuardMissed, InputError
from ...core.tensors.copying import copy_module
from ...core.types import Loaded
from ...model.builders import build
from ...training.checkpoints import checkpoint
from ...training.context import Context
from ...training.loop import Objective, train
from ...training.options import TrainOptions
from ..options import SearchOptions
from ..problem.evaluator import Rater
from .options import BATCH
from .policies.reinforce import Reinforce, Rollout
from .policies.rewards import score_of
from .teacher_cache import LogitRegression, distillation, remembered_logits

_NORM_BATCHES = 8
#: largest gradient norm: without it, weights that networks share or inherit grow until every network is at chance
_CLIP = 1.0
#: proposals without a trained child after which a search gives up, for every trial that it may take
_PROPOSALS_A_TRIAL = 20


@dataclass(frozen=True)
class Child:
    """One network that the policy proposed.

    Attributes:
        number: in the order of proposals.
        network: its JSON-able description.
        score: on held-out training examples; None where it was not trained.
        reward: what the policy got for it.
        costs: shares of the teacher's.
        fits: whether it is within the budget.
        seconds: since the search began.
    """

    number: int
    network: Any
    score: float | None
    reward: float
    costs: dict[str, float]
    fits: bool
    seconds: float


def check_reward(context: Context) -> None:
    """Raises InputError if there is no metric to reward candidates by."""
    if context.metric is None:
        raise InputError("technique 'architecture' is rewarded by a metric on held-out examples; name data and metric")


class Session:
    """What the policies work with.

    Args:
        teacher: the model to be made smaller; it teaches and is left as it is.
        whole: its costs, name -> absolute figure.
        options: budget, trials, brief trainings.
        context: data, metric, seed, log, and the folder in which a killed search finds its state.

    Attributes:
        state: the policy's own JSON-able notes, kept over a kill.
        models: the policy's own models, kept over a kill; "best" is the winner so far.
        children: every proposal.
        distillation, regression: losses of a brief training, on softened logits (of classes) and on outputs.
    """

    def __init__(self, teacher: Loaded, whole: dict[str, float], options: SearchOptions, context: Context):
        check_reward(context)
        self.teacher, self.whole, self.options, self.context = teacher, whole, options, context
        self.limits = {name: amount.of(whole[name]) for name, amount in options.targets().items()}
        self.generator = torch.Generator().manual_seed(context.seed)
        self.rater = Rater(teacher.clone().module, context, samples=options.score_samples, probe_samples=BATCH)
        self.samples = context.needs_data().size("val", at_most=options.score_samples)
        assert context.metric is not None  # checked above
        original = self.rater.original().score
        self._score = partial(score_of, original=original, scale=context.metric.scale)
        self.teacher_score = self._score(original)
        self.children: list[Child] = []
        self.models: dict[str, Loaded] = {}
        self.state: dict[str, Any] = {}
        self.agents: dict[str, Reinforce] = {}
        self.extra: dict[str, nn.Module] = {}
        self.notes: list[str] = []
        self._quiet = replace(context, original=teacher, metric=None, folder=None, log=lambda line: None)
        memory = remembered_logits(context)
        self.regression = LogitRegression(teacher.module.eval(), memory, context.loss)
        classes = context.task is None or context.task.distillation == "kd"
        self.distillation = distillation(teacher, memory, context) if classes else self.regression
        self._path = Path(context.folder) / "architecture.safetensors" if context.folder is not None else None
        self._begin, self._carried = time.perf_counter(), 0.0

    # -- budget and time -----------------------------------------------------------------------------------------

    def shares(self, costs: dict[str, float]) -> dict[str, float]:
        """Costs over the teacher's."""
        return {name: costs[name] / self.whole[name] for name in self.whole}

    def load(self, costs: dict[str, float]) -> float:
        """The largest cost over its limit; at most 1 within the budget."""
        return max(costs[name] / limit for name, limit in self.limits.items())

    def fits(self, costs: dict[str, float]) -> bool:
        """Whether costs are within the budget."""
        return self.load(costs) <= 1 + 1e-9

    @property
    def elapsed(self) -> float:
        """Seconds since the search began, what a killed run had spent up to its last episode included."""
        return time.perf_counter() - self._begin + self._carried

    def trained(self) -> int:
        """How many children were scored."""
        return sum(child.score is not None for child in self.children)

    def progress(self) -> float:
        """Share of trials, time or patience that is used up."""
        patience = len(self.children) / (_PROPOSALS_A_TRIAL * self.options.trials)
        timed = self.elapsed / self.options.seconds if self.options.seconds else 0.0
        return max(self.trained() / self.options.trials, timed, patience)

    # -- children ------------------------------------------------------------------------------------------------

    def train_briefly(self, child: Loaded, *, steps: int | None = None, objective: Objective | None = None) -> None:
        """Train a network in place, by distillation from the teacher unless another loss is given.

        Args:
            child: the network.
            steps: of 64 images; default the options'.
            objective: the loss.
        """
        examples = self.context.needs_data().size("train")
        an_epoch = max(1, examples // BATCH)
        options = TrainOptions(
            epochs=(steps or self.options.child_steps) / an_epoch,
            batch_size=min(BATCH, examples), lr=self.options.child_lr, keep="last",
            norm_batches=_NORM_BATCHES, grad_clip=_CLIP,
        )  # fmt: skip
        train(child, options, self._quiet, objective=objective or self.distillation)

    def rate(self, module: nn.Module) -> float:
        """Score on the held-out training examples: accuracy, or what stands for it, see `rewards.score_of`."""
        return self._score(self.rater.rate(copy_module(module)).score)  # the rater changes its module's memory layout

    def score_after_training(
        self, child: Loaded, *, steps: int | None = None, objective: Objective | None = None
    ) -> float:
        """Train a network briefly, in place, and rate it; 0 where the training diverged and left nothing to rate."""
        try:
            self.train_briefly(child, steps=steps, objective=objective)
        except Diverged as error:
            self.context.log(str(error))
            return 0.0
        return self.rate(child.module)

    def record(
        self, network: Any, costs: dict[str, float], reward: float, *, score: float | None = None,
        trained: Loaded | None = None,
    ) -> Child:  # fmt: skip
        """Note a proposal; a trained one within the budget that scores best so far is kept."""
        child = Child(
            len(self.children), network, score, reward, self.shares(costs), self.fits(costs),
            round(self.elapsed, 3),
        )  # fmt: skip
        before = self.best()
        self.children.append(child)
        if self.best() is child and trained is not None:
            self.models["best"] = trained
            self.state["best"] = child.number
        self._log(child, before)
        return child

    def best(self) -> Child | None:
        """The child with the highest score within the budget; the cheapest and earliest of equals."""
        return max(self._able(), key=lambda c: (c.score, -sum(c.costs.values()), -c.number), default=None)

    def _able(self) -> list[Child]:
        """Children that may win: within the budget, and right at least once."""
        return [child for child in self.children if child.fits and child.score]

    def finalists(self, count: int) -> list[Child]:
        """The best different networks within the budget, the best first."""
        different: list[Child] = []
        for child in sorted(self._able(), key=lambda c: (-(c.score or 0.0), sum(c.costs.values()), c.number)):
            if len(different) < count and all(child.network != other.network for other in different):
                different.append(child)
        return different

    def _log(self, child: Child, before: Child | None) -> None:
        count, total = self.trained(), self.options.trials
        left = self.elapsed * (1 / max(self.progress(), 1e-9) - 1)
        best = self.best()
        self.context.log(
            f"{self.options.policy} {count}/{total}: "
            f"{'infeasible' if child.score is None else f'score {child.score:.4f}'}, "
            f"{', '.join(f'{name} {share:.1%}' for name, share in child.costs.items())}, reward {child.reward:.3f}, "
            f"best {f'{best.score:.4f}' if best else 'none in budget'}{' (new)' if best is not before else ''}, "
            f"about {left:.0f} s to go"
        )

    # -- episodes, and a kill between them -------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything that decides how the search goes on."""
        if self._path is None:
            return
        tensors: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, agent in self.agents.items():
            tensors |= checkpoint.prefixed(f"agent.{name}", agent.tensors())
        for name, module in self.extra.items():
            tensors |= checkpoint.prefixed(f"extra.{name}", module.state_dict())
        models = {}
        for name, model in self.models.items():
            tensors |= checkpoint.prefixed(f"model.{name}", model.module.state_dict())
            models[name] = {
                "source": model.source, "edits": model.edits, "storage": model.storage, "name": model.name,
            }  # fmt: skip
        record = {
            "children": [asdict(child) for child in self.children], "state": self.state, "models": models,
            "seconds": self.elapsed,
        }  # fmt: skip
        checkpoint.write(self._path, tensors, record)

    def restore(self) -> bool:
        """Go on where a killed search had finished an episode; whether there was one.

        Call it when agents and extra modules are there, and before any of them is used.
        """
        if self._path is None or not self._path.is_file():
            return False
        tensors, record = checkpoint.read(self._path)
        self.generator.set_state(tensors["generator"])
        for name, agent in self.agents.items():
            agent.restore(checkpoint.under(f"agent.{name}", tensors))
        for name, module in self.extra.items():
            module.load_state_dict(checkpoint.under(f"extra.{name}", tensors))
        self.children = [Child(**child) for child in record["children"]]
        self.state, self._carried = record["state"], record["seconds"]
        for name, described in record["models"].items():
            self.models[name] = self._rebuilt(described, checkpoint.under(f"model.{name}", tensors))
        self.context.log(f"{self.options.policy} resumes after {self.trained()} trained networks")
        return True

    def _rebuilt(self, described: dict[str, Any], tensors: dict[str, Tensor]) -> Loaded:
        own = self.teacher.source  # which may hold more than its record: a module in memory
        source = own if described["source"] == own else described["source"]
        module = replay(build(source), described["edits"])
        module.load_state_dict(tensors)
        module.to(self.context.device).eval()
        return replace(
            self.teacher, module=module, source=source, edits=described["edits"],
            storage=described["storage"], name=described["name"],
        )  # fmt: skip

    def episodes(self, until: float, propose: Callable[[], tuple[Rollout, float]], agent: Reinforce, size: int) -> None:
        """Episodes of a few proposals each, an update after each, until a share of the search is used up.

        Args:
            until: share of trials or time, at most 1.
            propose: one proposal -> its (rollout, reward).
            agent: what is updated.
            size: proposals an episode.
        """
        while self.progress() < until:
            pairs: list[tuple[Rollout, float]] = []
            while len(pairs) < size and not (pairs and self.progress() >= min(until, 1.0)):
                pairs.append(propose())
            agent.update([rollout for rollout, _ in pairs], [reward for _, reward in pairs])
            self.save()

    def winner(self) -> tuple[Child, Loaded]:
        """The best child and its trained network.

        Raises:
            GuardMissed: if none was within the budget.
        """
        best = self.best()
        if best is None:
            raise GuardMissed(
                f"policy {self.options.policy!r} found no network within the budget that learned anything; give it "
                "more trials or seconds, allow more, or lower child_lr"
            )
        return best, self.models["best"]
