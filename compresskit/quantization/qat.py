"""Quantization-aware training with learned step sizes (LSQ), through the shared training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..analysis.answering_layers import answering_layers
from ..analysis.calibration.hooks import watch
from ..core.errors import InputError
from ..core.tensors.copying import copy_module
from ..core.tensors.dispatch import inside_vmap
from ..core.tensors.dtypes import widened
from ..core.tensors.modules import tensor_of
from ..core.types import Inputs, Loaded, call, main_output, to_device
from ..evaluation.loss_terms.own import answering
from ..evaluation.loss_terms.shapes import class_axis
from ..evaluation.losses import Loss, mean_objective, run_with_loss
from ..training.context import Context
from .formats import uniform
from .formats.integer import grid_parts
from .formats.uniform import Grid
from .layers.conversion import become
from .layers.layer_spec import Spec
from .layers.quantized_layer import Quantized, along_channels, from_matrix, quantized_class, quantized_layers, to_matrix
from .layers.weights import store

_SMALLEST_STEP = 1e-8
_CELL = 0.49  # half a step, less what rounding in floats may take
_HELD_OUT, _HELD_OUT_BATCH = 256, 16  # examples that tell whether training was worth it
_TEMPERATURE, _TEACHER_SHARE = 4.0, 0.9

#: (student, inputs, targets) -> scalar
Objective = Callable[[nn.Module, Inputs, Any], Tensor]


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The values themselves, with their gradient multiplied by a factor."""
    return values * factor + (values - values * factor).detach()


def round_through(values: Tensor) -> Tensor:
    """Rounded values whose gradient passes unchanged."""
    return values + (values.round() - values).detach()


def learned_step(values: Tensor, step: Tensor, lowest: Tensor | int, highest: Tensor | int, factor: float) -> Tensor:
    """Quantize and dequantize with a step size that has a gradient.

    The step's gradient is round(v / s) - v / s inside the range and the range's end outside; the values' gradient is
    1 inside and 0 outside.

    Args:
        values: any shape.
        step: broadcasts against values, positive.
        lowest, highest: smallest and largest whole number of steps.
        factor: multiplies the step's gradient.
    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 1 to 5.
    """
    step = scale_gradient(step, factor)
    steps = torch.minimum(torch.maximum(values / step, torch.as_tensor(lowest)), torch.as_tensor(highest))
    return round_through(steps) * step


def gradient_factor(count: int, highest: int) -> float:
    """1 / sqrt(count * highest): keeps the step's updates in proportion to the weights'; section 2.2."""
    return (count * max(highest, 1)) ** -0.5


def dropped(quantized: Tensor, values: Tensor, share: float) -> Tensor:
    """Quantized activations of which a random share is left in float, drawn anew at each call.

    Source: Wei et al., "QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization", ICLR
        2022, eq. 7.
    """
    if inside_vmap():  # which draws nothing at random
        return quantized
    return torch.where(torch.rand_like(values) < share, values, quantized)


class Trainable(Quantized):
    """A quantized layer in training: float weights, and steps that are parameters.

    Steps are stored flat, so that the optimizer takes them for vectors and does not decay them.
    """

    grids: dict[str, tuple[torch.Size, Tensor]]
    float_share: float = 0.0  # of activations that stay in float at random while gradients are taken

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """The number type of the weights in training."""
        return getattr(self, f"{self.spec.parameters[0]}_float").dtype if self.spec.parameters else None

    def _parts(self, parameter: str) -> dict[str, Tensor]:
        return {part: getattr(self, f"{parameter}_{part}") for part in ("float", "step")}

    def dequantized(self, parameter: str) -> Tensor:
        spec = self.spec
        weight = getattr(self, f"{parameter}_float")
        matrix = to_matrix(weight, spec.axis)
        shape, zero_point = self.grids[parameter]
        step = getattr(self, f"{parameter}_step").clamp(min=_SMALLEST_STEP).reshape(shape)
        step, zero_point = (
            uniform.expand_groups(part, matrix.shape[1], spec.group_size) for part in (step, zero_point)
        )
        lowest = uniform.lowest_symmetric_code(spec.bits) if spec.symmetric else 0
        top = uniform.highest_code(spec.bits)
        shared = weight.numel() // getattr(self, f"{parameter}_step").numel()
        factor = gradient_factor(shared, top - uniform.middle_code(spec.bits))
        rounded = learned_step(matrix, step, lowest - zero_point, top - zero_point, factor)
        return from_matrix(rounded, weight.shape, spec.axis)

    def quantize_input(self, values: Tensor) -> Tensor:
        spec = self.spec
        if spec.input != "static":
            return super().quantize_input(values)
        if spec.input_multiplier:
            values = values * along_channels(self.input_multiplier, self)
        return self._activation(values, "input", spec.input_bits)

    def quantize_output(self, output: Tensor) -> Tensor:
        return self._activation(output, "output", self.spec.output_bits)

    def quantize_operand(self, values: Tensor, index: int) -> Tensor:
        if self.spec.operand_ranges == "dynamic":
            return super().quantize_operand(values, index)
        return self._activation(values, "operand", self.spec.operand_bits, index)

    def _activation(self, values: Tensor, side: str, bits: int, index: int = 0) -> Tensor:
        zero_point = int(getattr(self, f"{side}_zero_point").reshape(-1)[index])
        top = uniform.highest_code(bits)
        step = getattr(self, f"{side}_step")[index].clamp(min=_SMALLEST_STEP)
        factor = gradient_factor(values[0].numel(), top - zero_point)
        quantized = learned_step(values, step, -zero_point, top - zero_point, factor)
        if not self.float_share or not torch.is_grad_enabled():
            return quantized
        return dropped(quantized, values, self.float_share)


@cache
def _trainable_class(float_class: type[nn.Module], parameters: tuple[str, ...]) -> type:
    base = quantized_class(float_class, parameters)  # type: ignore[arg-type]  # mypy takes no class for hashable
    return type(
        f"Trainable{float_class.__name__}", (Trainable, base), {"float_class": float_class, "__module__": __name__}
    )


def trainable(quantized: nn.Module, float_model: nn.Module) -> nn.Module:
    """A copy of a quantized model to train: weights from the float model, steps from the quantized one's scales."""
    copied = copy_module(quantized)
    for path, layer in quantized_layers(copied).items():
        if "qat" in layer.number_format.options:
            _make_trainable(layer, float_model.get_submodule(path))
    return copied


def _make_trainable(layer: Quantized, float_layer: nn.Module) -> None:
    grids: dict[str, tuple[torch.Size, Tensor]] = {}
    for name in layer.spec.parameters:
        scale = tensor_of(layer, f"{name}_scale").float()
        grids[name] = (scale.shape, _zero_points(layer, name, scale))
        weight = _in_their_cells(layer, name, float_layer.get_parameter(name).detach(), scale)
        del layer._buffers[f"{name}_values"], layer._buffers[f"{name}_scale"]
        layer.register_parameter(f"{name}_float", nn.Parameter(weight))
        layer.register_parameter(f"{name}_step", nn.Parameter(scale.reshape(-1).clone()))
    for side in static_sides(layer.spec):
        step = tensor_of(layer, f"{side}_scale")
        del layer._buffers[f"{side}_scale"]
        layer.register_parameter(f"{side}_step", nn.Parameter(step.reshape(-1).clone()))
    kind = _trainable_class(layer.float_class, layer.spec.parameters)  # type: ignore[arg-type]  # as above
    become(layer, kind)
    vars(layer)["grids"] = grids


def _in_their_cells(layer: Quantized, name: str, weight: Tensor, scale: Tensor) -> Tensor:
    """Float weights that round to the codes that a layer has, also where those are not the nearest ones."""
    spec, matrix = layer.spec, to_matrix(weight.float(), layer.spec.axis)
    step = uniform.expand_groups(scale, matrix.shape[1], spec.group_size)
    stored = to_matrix(layer.dequantized(name).detach().float(), spec.axis)
    zero_point = uniform.expand_groups(_zero_points(layer, name, scale), matrix.shape[1], spec.group_size)
    lowest = uniform.lowest_symmetric_code(spec.bits) if spec.symmetric else 0
    nearest = uniform.round_trip(matrix, step, zero_point, spec.bits, lowest)
    pulled = stored + torch.clamp(matrix - stored, -_CELL * step, _CELL * step)
    moved = torch.where((stored - nearest).abs() > 0.5 * step, pulled, matrix)
    return from_matrix(moved, weight.shape, spec.axis).to(weight.dtype).clone()


def static_sides(spec: Spec) -> list[str]:
    """Where a layer holds calibrated scales of activations."""
    operands = ["operand"] if spec.operands and spec.operand_ranges == "static" else []
    return [side for side in ("input", "output") if getattr(spec, side) == "static"] + operands


def _zero_points(layer: Quantized, name: str, scale: Tensor) -> Tensor:
    if layer.spec.symmetric:
        return torch.full_like(scale, uniform.middle_code(layer.spec.bits))
    return getattr(layer, f"{name}_zero_point").float()


@torch.no_grad()
def take_over(trained: nn.Module, quantized: nn.Module) -> None:
    """Write what was trained back into the quantized model: codes and scales, and every parameter both have."""
    written: set[str] = set()
    for path, layer in quantized_layers(quantized).items():
        source = trained.get_submodule(path)
        if not isinstance(source, Trainable):
            continue
        for name in layer.spec.parameters:
            shape, zero_point = source.grids[name]
            step = getattr(source, f"{name}_step").clamp(min=_SMALLEST_STEP).reshape(shape)
            stored = step.to(getattr(layer, f"{name}_scale").dtype).float()
            lowest = uniform.lowest_symmetric_code(layer.spec.bits) if layer.spec.symmetric else 0
            grid = Grid(stored, zero_point, layer.spec.bits, lowest, layer.spec.group_size)
            codes = grid.nearest(to_matrix(getattr(source, f"{name}_float"), layer.spec.axis))
            store(layer, name, grid_parts(grid, codes, layer.spec))
        prefix = f"{path}." if path else ""
        written |= {prefix + name for name in layer._buffers if name != "input_multiplier"}
        for side in static_sides(layer.spec):
            scale = getattr(layer, f"{side}_scale")
            scale.copy_(getattr(source, f"{side}_step").clamp(min=_SMALLEST_STEP).reshape(scale.shape))
    found = trained.state_dict()
    for name, tensor in [*quantized.named_parameters(), *quantized.named_buffers()]:
        if name in found and name not in written:
            tensor.copy_(found[name])


def held_out_loss(module: nn.Module, objective: Objective, context: Context) -> float:
    """Mean objective over examples of the split val, in eval mode."""
    batches = context.needs_data().batches("val", batch_size=_HELD_OUT_BATCH, limit=_HELD_OUT)
    return mean_objective(module, batches, context.device, objective)


def make_distill_objective(teacher: Loaded, labels: Literal["use", "ignore"], context: Context) -> Objective:
    """The objective of `qat kd` for a task.

    Args:
        teacher: the float model; it goes to the context's device.
        labels: whether the data's own targets count beside it.
        context: its task says what is compared: of boxes, whose number changes, the layers that they are read from.
    """
    module = teacher.module.to(context.device)
    layers: Sequence[str] = ()
    if context.task is not None and context.task.distillation == "features":
        names = [name for name, _ in module.named_modules() if name]
        layers = answering_layers(module, to_device(teacher.example, context.device), names)
    return distill_objective(module, context.loss, layers, labels)


def distill_objective(
    teacher: nn.Module,
    loss: Loss | None = None,
    layers: Sequence[str] = (),
    labels: Literal["use", "ignore"] = "use",
) -> Objective:
    """The float model's answers as soft targets, beside the data's own targets.

    0.9 T^2 KL(teacher || student) at T = 4, plus 0.1 times the task's loss. Outputs that are no class logits are
    compared by squared error, and outputs of layers by squared error in shares of their variance.

    Args:
        teacher: the float model.
        loss: against the data's own targets.
        layers: whose outputs are compared in the place of the model's own; both models have them.
        labels: ignore leaves the data's own targets out.
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    teacher.eval()

    def run(module: nn.Module, inputs: Inputs, targets: Any) -> tuple[Any, Tensor | None]:
        if labels == "use":
            return run_with_loss(module, inputs, targets, loss)
        with answering(module):
            return call(module, inputs), None

    def objective(module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
        with _outputs_of(module, layers) as mine:
            outputs, hard = run(module, inputs, targets)
        with torch.no_grad(), _outputs_of(teacher, layers) as theirs:
            wanted = call(teacher, inputs)
        if layers:
            soft = torch.stack([_relative_error(mine[name], theirs[name]) for name in layers]).mean()
        else:
            are_numbers = isinstance(targets, Tensor) and targets.is_floating_point()
            soft = _soft_loss(widened(main_output(outputs)), widened(main_output(wanted)), are_numbers)
        return soft if hard is None else _TEACHER_SHARE * soft + (1 - _TEACHER_SHARE) * hard

    return objective


@contextmanager
def _outputs_of(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, the outputs of some layers are kept by name; those of several calls are joined, flat."""
    found: dict[str, Tensor] = {}

    def keep(name: str, _layer: nn.Module, _given: tuple[Any, ...], output: Any) -> None:
        flat = widened(output).flatten()
        found[name] = torch.cat([found[name], flat]) if name in found else flat

    with watch(module, {name: partial(keep, name) for name in layers}):
        yield found


def _relative_error(mine: Tensor, theirs: Tensor) -> Tensor:
    return F.mse_loss(mine, theirs) / theirs.var().clamp(min=1e-8)


def _soft_loss(logits: Tensor, wanted: Tensor, are_numbers: bool) -> Tensor:
    """Of class logits, their softened divergence; of numbers, the squared error."""
    if logits.shape != wanted.shape:
        raise InputError("qat kd compares outputs, and those of this model change between passes; set qat finetune")
    axis = class_axis(tuple(logits.shape))
    logits, wanted = (part.movedim(axis, -1) if part.dim() > 1 else part for part in (logits, wanted))
    if logits.dim() < 2 or logits.shape[-1] < 2 or are_numbers:
        return F.mse_loss(logits, wanted)
    student_log, teacher_log = ((part / _TEMPERATURE).log_softmax(-1).flatten(0, -2) for part in (logits, wanted))
    return F.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean") * _TEMPERATURE**2
