"""Judging a model during training: batch-norm statistics taken anew, and the metric on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from ..core import distributed
from ..core.types import Inputs
from ..evaluation.losses import mean_loss
from .batchnorm import estimate_batchnorm
from .checkpoints.state import State
from .checkpoints.weights import TrainedWeights
from .context import Context
from .options import TrainOptions


class Validator:
    """Evaluates the weights that would be kept (the average where there is one), and remembers the best.

    Args:
        module: what is trained, whole or sharded.
        options: the training's.
        context: data, metric and device.
        weights: the trained weights, their average and the best so far.
        sharded: whether all processes must take part in a forward.
        norm_inputs: batches for batch-norm statistics, this process's part of each.
    """

    def __init__(
        self, module: nn.Module, options: TrainOptions, context: Context, weights: TrainedWeights, *, sharded: bool,
        norm_inputs: Callable[[], Iterable[Inputs]],
    ):  # fmt: skip
        self.module, self.options, self.context, self.weights = module, options, context, weights
        self.sharded = sharded
        self.norm_inputs = norm_inputs
        self.name = getattr(context.metric, "name", "metric") if context.metric else "loss"

    def __call__(self, state: State, epoch: float) -> float | None:
        """The value on the validation split; None where nobody asks for it."""
        weights, held = self.weights, None
        if weights.average:
            held = weights.copied()
            weights.put(weights.average)
        try:
            if self.options.norm_batches:
                estimate_batchnorm(self.module, self.norm_inputs())
            if held is not None:
                weights.average = weights.copied()
            value = self._evaluate()
            if value is not None:
                higher = self.context.metric.higher_is_better if self.context.metric else False
                best = state.judge(value, epoch, higher_is_better=higher)
                if best and self.options.keep == "best":
                    weights.keep_as_best()
        finally:
            if held is not None:
                weights.put(held)
        return value

    def _evaluate(self) -> float | None:
        """The metric (or, without one, the task loss) on the validation split."""
        data = self.context.needs_data()
        judged = self.options.keep == "best" or self.options.early_stop or self.context.metric
        if data.known_size("val") == 0 or not judged:
            return None
        if not self.sharded and not distributed.is_main():
            return distributed.from_main(None)
        examples = data.known_size("val")  # of a stream nobody knows how many there are
        batches = data.batches("val", batch_size=min(self.context.eval_batch, examples or self.context.eval_batch))
        if self.context.metric:
            value = self.context.metric.value(self.module, batches, self.context.device)
        else:
            value = mean_loss(self.module, batches, self.context.device, self.context.loss)
        return distributed.from_main(value)
