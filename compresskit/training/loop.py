"""The one training loop: fine-tuning, recovery, distillation and quantization-aware training share it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core import distributed
from ..core.errors import InputError
from ..core.options import GuardOptions
from ..core.reporting.phases import phase, under_way
from ..core.tensors.dtypes import float32_weights
from ..core.tensors.randomness import manual_seed
from ..core.types import Inputs, Loaded, to_device
from ..data.augmentation import transforms
from ..evaluation.losses import plain_objective
from . import logging
from .checkpoints import checkpoint
from .checkpoints.state import State
from .checkpoints.weights import TrainedWeights
from .context import Context, StepResult
from .distributed.ddp_wrapper import Joined, Objective, shared
from .optim import clip_gradients, learning_rate, make_optimizer, number_type
from .options import TrainOptions, TrainStepOptions
from .step_losses import StepLosses
from .validator import Validator

_SEED_STRIDE = 1_000_003
#: options that do not change the result of a run, so that a checkpoint outlives changing them
_WITHOUT_EFFECT = {"checkpoint_steps", "tensorboard", *GuardOptions.model_fields}


def train(
    loaded: Loaded,
    options: TrainOptions,
    context: Context,
    *,
    objective: Objective | None = None,
    extra_modules: Sequence[nn.Module] = (),
    checkpoint_dir: Path | None = None,
) -> dict[str, Any]:
    """Train a model in place.

    The random state of a step depends on the seed, the step and the process only, and checkpoints hold the rest, so a
    run that was killed and called again with the same arguments ends with the same weights as one that was not.

    Args:
        loaded: its module is trained; tensors stored as "bitmap" keep their zeros.
        options: how to train.
        context: data, metric, seed and device; without data nothing can be trained.
        objective: the loss; None takes `task_loss` with the options' label smoothing.
        extra_modules: trained along (adapters of a distillation loss), and forgotten by the caller afterwards.
        checkpoint_dir: where training state is kept; None takes the context's folder, and none is kept without both.
    Returns:
        facts: steps, seconds, the metric on the validation split, and `history`, one mapping an epoch.
    Raises:
        InputError: without data or trainable parameters, or when the loss stops being finite.
    """
    context.needs_data("training")
    check_divides(options, context)
    place = checkpoint_dir or context.folder
    folder = Path(place) if place else None
    devices = [context.device] if context.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(distributed.session(context.device))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(float32_weights(loaded.module))
        run = _Run(loaded, options, context, objective, extra_modules, folder)
        if options.batch_norm == "synchronized":
            stack.enter_context(distributed.synchronized_batch_norms([run.trained, *run.extras]))
        loaded.random_weights = False
        return run.complete()


def train_step(loaded: Loaded, options: TrainStepOptions, context: Context) -> StepResult:
    """The `train` technique: fine-tune a model, or train it from its random start."""
    facts = train(loaded, options, context)
    return StepResult(loaded, facts, files=logging.curve_files(facts, context.folder))


def check_divides(options: TrainOptions, context: Context) -> None:
    """Raises InputError if batches do not divide over the processes of torchrun."""
    world = distributed.world_size()
    if options.batch_size % world:
        raise InputError(f"batch_size {options.batch_size} does not divide over {world} processes; make it a multiple")
    examples = context.needs_data().size("train", at_most=options.train_limit)
    if examples < options.batch_size and examples % world:
        raise InputError(f"{examples} training examples do not divide over {world} processes; set train_limit")


class _Run:
    """One training run: its parts are made here, then `complete` walks through the steps."""

    def __init__(
        self,
        loaded: Loaded,
        options: TrainOptions,
        context: Context,
        objective: Objective | None,
        extra_modules: Sequence[nn.Module],
        folder: Path | None,
    ):
        self.options, self.context, self.device = options, context, context.device
        self.folder = folder
        self.module = loaded.module.to(self.device)
        self.extras = [module.to(self.device) for module in extra_modules]
        self.objective = objective or partial(plain_objective, options.label_smoothing, loss=context.loss)
        self.batches = self._training_batches(options.augment)
        self.steps_per_epoch = max(1, self.batches.samples // options.batch_size)
        self.total_steps = max(1, math.ceil(options.epochs * self.steps_per_epoch))
        self.path = self._checkpoint_path()
        self.sharded: Any = None
        if options.sharding == "fsdp":
            if "bitmap" in loaded.storage.values():
                raise InputError("sharding fsdp cannot hold the zeros of a sparse model; leave it out")
            from .distributed.fsdp import Sharded  # takes a second to import

            self.sharded = Sharded(self.module, self.device)
        self.trained = self.sharded.module if self.sharded else self.module
        self.optimizer = make_optimizer([self.trained, *self.extras], options)
        # a loss may leave layers out (the first stage of FitNet); one that does not say so is not trusted
        leaves_out = getattr(self.objective, "leaves_layers_out", objective is not None)
        joined = Joined(self.trained, self.extras, self.objective)
        self.joined = joined if self.sharded else shared(joined, leaves_out, options.batch_norm)
        self.dtype = number_type(options.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.state, self.losses = State(), StepLosses.on(self.device)
        self.weights = TrainedWeights(loaded, self.sharded, options.ema)
        self.judge = Validator(
            self.trained, options, context, self.weights, sharded=bool(self.sharded), norm_inputs=self._norm_inputs
        )

    def complete(self) -> dict[str, Any]:
        """Walk through all steps, from the checkpoint where there is one."""
        self._resume()
        started_at = self.state.step
        for module in (self.trained, *self.extras):
            module.train()
        try:
            if not self.state.finished:
                with phase(under_way() or "train", self.total_steps, started_at) as advance:
                    while not self.state.finished:
                        self._epoch(advance)
                self.weights.load_kept()
                self.losses.check_weights(self.module, self.options.lr)
                self._save()
        finally:
            self.module.eval()
        return self._facts(started_at)

    # -- steps ---------------------------------------------------------------------------------------------------

    def _epoch(self, advance: Callable[[str], None]) -> None:
        state, per_epoch = self.state, self.steps_per_epoch
        epoch, position = divmod(state.step, per_epoch)
        batches = self.batches.at_epoch(epoch)
        last = min(per_epoch, self.total_steps - epoch * per_epoch)
        clock = time.perf_counter()
        number = position - 1
        for number, (indices, inputs, targets) in zip(range(position, last), batches.numbered(position), strict=False):
            self._step(inputs, targets, indices)
            state.step += 1
            advance(f"loss {self.losses.latest:.3f}")
            if state.step == self.total_steps or number + 1 == per_epoch:
                break
            if self.options.checkpoint_steps and state.step % self.options.checkpoint_steps == 0:
                state.seconds, clock = state.seconds + time.perf_counter() - clock, time.perf_counter()
                self._save()
        if number + 1 < last:  # a stream that holds less than it says would go on for ever
            raise InputError(
                f"data {self.context.needs_data().name!r}: the training examples ended in batch {number + 1} of "
                f"{per_epoch}; the stream holds fewer examples than its length says"
            )
        self._read_losses()
        state.seconds += time.perf_counter() - clock
        self._end_epoch()
        if not state.finished:
            self._save()

    def _step(self, inputs: Inputs, targets: Any, indices: Tensor) -> None:
        options, state = self.options, self.state
        seed = self.context.seed * _SEED_STRIDE + state.step
        if options.mixup or options.cutmix:
            generator = torch.Generator().manual_seed(seed)
            if not isinstance(inputs, Tensor):
                raise InputError("mixup and cutmix need inputs that are one tensor")
            inputs, targets = transforms.mix(inputs, targets, generator, mixup=options.mixup, cutmix=options.cutmix)
        # batches divide evenly, so the mean of the processes' means is the batch's mean
        inputs, indices = to_device(distributed.share(inputs), self.device), distributed.share(indices)
        targets = transforms.map_targets(lambda part: to_device(distributed.share(part), self.device), targets)
        begin = getattr(self.objective, "begin_step", None)
        if begin:
            begin(indices, state.step, self.total_steps)
        manual_seed(seed * distributed.world_size() + distributed.rank())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(state.step, self.total_steps, options)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.joined(inputs, targets)
        if self.losses.note(state.step, loss, getattr(self.objective, "parts", {})):
            self._read_losses()
        self.scaler.scale(loss).backward()
        if self.sharded:
            distributed.average_gradients(self.extras)  # weights that are not sharded are nobody else's business
        if options.grad_clip:
            self.scaler.unscale_(self.optimizer)
            clip_gradients([p for group in self.optimizer.param_groups for p in group["params"]], options.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.weights.after_update(state.step)

    def _read_losses(self) -> None:
        for value, parts in self.losses.read(self.total_steps, self.options.lr):
            self.state.count(value, parts)

    # -- epochs --------------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        state = self.state
        epoch = state.step / self.steps_per_epoch
        row = state.end_epoch(epoch)
        row["lr"] = learning_rate(max(state.step - 1, 0), self.total_steps, self.options)
        value = self.judge(state, epoch)
        if value is not None:
            row[f"val_{self.judge.name}"] = value
        row["seconds"] = round(state.seconds, 3)
        state.history.append(row)
        limit = self.options.early_stop
        state.stopped_early = bool(limit and state.without_gain >= limit)
        state.finished = state.step >= self.total_steps or state.stopped_early
        self._log(row)

    def _norm_inputs(self) -> Iterator[Inputs]:
        """Batches without augmentation, each process its part, for the statistics of batch norms."""
        batches = self._training_batches([])
        for number, (inputs, _) in enumerate(batches):
            if number == min(self.options.norm_batches, self.steps_per_epoch):
                return
            yield to_device(distributed.share(inputs), self.device)

    def _log(self, row: dict[str, Any]) -> None:
        if not distributed.is_main():
            return
        shown = [name for name in row if name not in ("epoch", "step", "seconds")]
        figures = ", ".join(f"{name} {row[name]:.4g}" for name in shown)
        whole = self.total_steps / self.steps_per_epoch  # more than was asked for where that is less than a step
        self.context.log(f"epoch {row['epoch']:.4g} of {whole:.4g}: {figures}; {row['seconds']:.1f} s")
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            logging.write_csv(self.state.history, self.folder / "training.csv")
            if self.options.tensorboard:
                logging.write_tensorboard(row, self.folder / "tensorboard", self.state.step)

    def _facts(self, started_at: int) -> dict[str, Any]:
        state = self.state
        images = state.step * min(self.options.batch_size, self.batches.samples)
        facts: dict[str, Any] = {
            "train_steps": state.step,
            "train_epochs": round(state.step / self.steps_per_epoch, 4),
            "train_examples": self.batches.samples,
            "train_seconds": round(state.seconds, 3),
            "examples_per_second": round(images / state.seconds, 1) if state.seconds else None,
            "precision": str(self.dtype).removeprefix("torch."),
            "processes": distributed.world_size(),
            "resumed_from_step": started_at,
            "stopped_early": state.stopped_early,
            "history": state.history,
        }
        if state.best is not None:
            facts["kept_weights"] = self.options.keep
            facts |= {f"best_val_{self.judge.name}": state.best, "best_epoch": state.best_epoch}
        return facts

    # -- parts ---------------------------------------------------------------------------------------------------

    def _training_batches(self, augmentations: Sequence[str]) -> Any:
        options = self.options
        return self.context.needs_data().batches(
            "train",
            batch_size=options.batch_size,
            shuffle=True,
            seed=self.context.seed,
            limit=options.train_limit,
            augment=transforms.compose(augmentations),
        )

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _checkpoint_path(self) -> Path | None:
        if self.folder is None:
            return None
        record = {
            "options": self.options.model_dump(exclude=_WITHOUT_EFFECT),
            "kind": type(self.options).__name__,
            "seed": self.context.seed,
            "data": self.context.needs_data().name,
            "examples": self.batches.samples,
        }
        tensors = checkpoint.prefixed("module", self.module.state_dict())
        for number, extra in enumerate(self.extras):
            tensors |= checkpoint.prefixed(f"extra{number}", extra.state_dict())
        return self.folder / f"training-{checkpoint.fingerprint(record, tensors)}.safetensors"

    def _save(self) -> None:
        self._read_losses()
        if self.path is None:
            return
        tensors = self.weights.tensors(finished=self.state.finished)
        if not self.state.finished:
            tensors |= checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(self.optimizer))
            for number, extra in enumerate(self.extras):
                tensors |= checkpoint.prefixed(f"extra{number}", extra.state_dict())
            memory = getattr(self.objective, "memory", None)
            tensors |= checkpoint.prefixed("memory", memory() if memory else {})
        record = {"state": asdict(self.state), "scaler": self.scaler.state_dict()}
        if self.sharded:
            self.sharded.write(self.path, tensors, record)
        elif distributed.is_main():
            checkpoint.write(self.path, tensors, record)
        distributed.barrier()

    def _resume(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        tensors, record = (self.sharded or checkpoint).read(self.path)
        self.state = State(**record["state"])
        self.weights.restore(tensors, finished=self.state.finished)
        if not self.state.finished:
            self._restore_rest(tensors, record)
        if distributed.is_main():
            self.context.log(f"training resumes at step {self.state.step} of {self.total_steps}")

    def _restore_rest(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        optimizer = checkpoint.under("optimizer", tensors)
        (self.sharded or checkpoint).restore_optimizer(self.optimizer, optimizer)
        for number, extra in enumerate(self.extras):
            extra.load_state_dict(checkpoint.under(f"extra{number}", tensors))
        recall = getattr(self.objective, "recall", None)
        if recall:
            recall(checkpoint.under("memory", tensors))
        self.scaler.load_state_dict(record["scaler"])
