"""What `quantize` would refuse only later, found out before any work."""

from __future__ import annotations

from functools import partial

from compresskit.core.errors import InputError, problems_of
from compresskit.core.types import Loaded
from compresskit.training.context import Context
from compresskit.training.train_check import check_training

from ..analysis.calibration.block_walk.blocks import find_blocks
from ..analysis.dataflow import trace
from .calibration.activations import product_operands
from .kv_cache import quantize_cache
from .mixed_precision.choice import check_budget, target_bytes
from .options import QuantizeOptions
from .plan import make_plan
from .qat import make_distill_objective
from .transforms.folding import fold_batchnorm
from .transforms.rotation import rotate


def check(loaded: Loaded, options: QuantizeOptions, context: Context) -> None:
    """Plan the layers as `quantize` does, and run a step of the training that follows.

    Args:
        loaded: a copy of the model, which this may change.
        options: of the step.
        context: data, where it trains.
    Raises:
        InputError: a line for each thing that `quantize` would refuse.
    """
    problems = problems_of(partial(_check_qat, loaded.clone(), options, context))
    problems += problems_of(partial(_check_plan, loaded, options, context))
    if problems:
        raise InputError("\n".join(problems))


def _check_plan(loaded: Loaded, options: QuantizeOptions, context: Context) -> None:
    target = target_bytes(loaded, options)
    if options.fold_batchnorm:
        fold_batchnorm(loaded)
    if options.kv_bits is not None:
        quantize_cache(loaded.module, options.kv_bits)
    if options.rotate:
        rotate(loaded, context.seed)
    record = trace(loaded.module, loaded.example)
    if options.blocks:
        find_blocks(loaded.module, loaded.example, options.blocks)
    plans, _ = make_plan(loaded.module, record, options, products=product_operands(loaded, options))
    if options.chooses_bits():
        check_budget(loaded.module, plans, options, target)


def _check_qat(loaded: Loaded, options: QuantizeOptions, context: Context) -> None:
    if options.qat == "none":
        return
    # the float model stands for the quantized one, whose loss and outputs are alike
    objective = make_distill_objective(loaded.clone(), options.recover.labels, context) if options.qat == "kd" else None
    check_training(loaded, options.qat_options(), context, objective=objective)
