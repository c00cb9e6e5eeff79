"""How much a model's prediction, or its loss, depends on each output channel of its layers, from backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.tensors.batches import count_examples, pick
from ...core.tensors.dtypes import in_float32
from ...core.types import Inputs, call, main_output
from ..calibration.hooks import watch
from ..calibration.im2col import Window, window_of

#: (module, inputs, targets) -> the sum over examples of what is differentiated; it runs the model
Score = Callable[[nn.Module, Inputs, Any], Tensor]

#: what forward passes may keep for their backward passes; batches that keep more go through in parts
_MOST_BYTES = 256 << 20


@in_float32
def output_sensitivities(
    module: nn.Module,
    names: Sequence[str],
    batches: Iterable[tuple[Inputs, Any]],
    *,
    score: Score,
    errors: Literal["alike", "independent"] = "alike",
) -> dict[str, Tensor]:
    """The Fisher information of each layer's output channels.

    A small error d in a layer's output moves the class probabilities by a KL divergence of about (d^T F d) / 2. F's
    diagonal is the mean square of the gradient of log p(y) with y drawn from the model itself (`drawn_class`); with the
    data's own labels it is the empirical Fisher information of the loss. Errors of cut channels and of rounded weights
    are much alike at all positions of a feature map, and layers behind add positions up, so their gradient is summed
    over positions before it is squared: on ResNet-56 with half of one group gone, logarithms of predicted and measured
    divergence then correlate with 0.94 (0.81 if squared first), on ResNet-20 with one layer at 3 bits with 0.92 (0.66).
    What low ranks leave out differs between positions: 0.69 (0.80 if squared first).

    Args:
        module: the model, in eval mode.
        names: layers with a weight matrix (linear, convolution).
        batches: (inputs, targets); targets are what `score` takes.
        score: what is differentiated.
        errors: "alike" at all positions, or "independent".
    Returns:
        layer -> (out_channels,) float64, where the layer lies; layers that the score does not reach are left out.
    Source: Theis et al., "Faster Gaze Prediction with Dense Networks and Fisher Pruning", 2018, eq. 9, for errors of
        outputs instead of the outputs themselves.
    """

    def figure(gradient: Tensor) -> Tensor:
        squares = gradient.sum(2).square() if errors == "alike" else gradient.square().sum(2)
        return squares.sum(0)

    return _mean_of_gradients(module, names, batches, score, figure)


@in_float32
def output_curvatures(
    module: nn.Module, names: Sequence[str], batches: Iterable[tuple[Inputs, Any]], *, score: Score
) -> dict[str, Tensor]:
    """The covariance of the gradient at each layer's output channels, its positions being independent.

    With `drawn_class` as score it is the output's half of the Kronecker factors of the Fisher information.

    Args:
        module: the model, in eval mode.
        names: layers with a weight matrix (linear, convolution).
        batches: (inputs, targets); targets are what `score` takes.
        score: what is differentiated.
    Returns:
        layer -> (out_channels, out_channels) float64; layers that the score does not reach are left out.
    Source: Grosse & Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers", ICML 2016,
        eq. 15.
    """
    return _mean_of_gradients(
        module, names, batches, score, lambda gradient: torch.einsum("nop,nqp->oq", gradient, gradient)
    )


def _mean_of_gradients(
    module: nn.Module,
    names: Sequence[str],
    batches: Iterable[tuple[Inputs, Any]],
    score: Score,
    figure: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """For each layer a figure of its output's gradient, (examples, channels, positions) in float64, an example."""
    found: dict[str, Tensor] = {}
    count = 0
    for inputs, targets in _in_parts(module, batches):
        outputs: dict[str, list[Tensor]] = {name: [] for name in names}
        with watch(module, {name: _keeper(outputs[name]) for name in names}), torch.enable_grad():
            value = score(module, inputs, targets)
        reached = outputs if value.requires_grad else {}
        used = [(name, output) for name, calls in reached.items() for output in calls if output.requires_grad]
        gradients = torch.autograd.grad(value, [output for _, output in used], allow_unused=True) if used else ()
        for (name, _), gradient in zip(used, gradients, strict=True):
            if gradient is not None:
                axis = gradient.dim() - 1 if window_of(module.get_submodule(name)) == Window() else 1
                moved = gradient.double().movedim(axis, 1)
                found[name] = found.get(name, 0) + figure(moved.reshape(*moved.shape[:2], -1))
        count += count_examples(inputs)
    return {name: total / max(count, 1) for name, total in found.items()}


def _in_parts(module: nn.Module, batches: Iterable[tuple[Inputs, Any]]) -> Iterator[tuple[Inputs, Any]]:
    """The batches, divided where a backward pass through a whole one would hold too much of it."""
    an_example = 0
    for inputs, targets in batches:
        count = count_examples(inputs)
        if not an_example and count > 1:
            an_example = _kept_bytes(module, pick(inputs, torch.zeros(1, dtype=torch.int64)))
        at_once = max(_MOST_BYTES // max(an_example, 1), 1)
        if count <= at_once:
            yield inputs, targets
            continue
        for indices in torch.arange(count).split(at_once):
            yield pick(inputs, indices), pick(targets, indices)


def _kept_bytes(module: nn.Module, inputs: Inputs) -> int:
    """What a forward pass keeps for its backward pass, beside parameters."""
    # storages by identity, as some devices give no address; views of weights are kept, too
    owned = {one.untyped_storage()._cdata for one in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.enable_grad():
        call(module, inputs)
    return sum(size for place, size in kept.items() if place not in owned)


def _keeper(outputs: list[Tensor]) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
    def keep(_layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # an activation in place would change what is kept

    return keep


def unlabelled(batches: Iterable[Inputs]) -> Iterable[tuple[Inputs, None]]:
    """Batches for a score that needs no targets."""
    return ((inputs, None) for inputs in batches)


def drawn_class(seed: int) -> Score:
    """Sum over examples of log p of one class drawn from the model; of a random projection where outputs are no logits.

    Args:
        seed: of the drawn classes.
    """
    generator = torch.Generator().manual_seed(seed)

    def score(module: nn.Module, inputs: Inputs, _targets: Any) -> Tensor:
        final = main_output(call(module, inputs))
        if final.dim() == 2 and final.shape[1] > 1:
            logs = final.log_softmax(1)
            drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator).to(final.device)
            return logs.gather(1, drawn).sum()
        if not final.is_floating_point():  # what was decided has no gradient
            return torch.zeros(())
        signs = torch.randint(0, 2, final.shape, generator=generator).to(final) * 2 - 1
        return (final * signs).sum() / final.detach().square().mean().sqrt().clamp_min(1e-12)

    return score
