"""Taking features out of a model while it runs: outputs of layers, inputs of ReLUs and of attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ...analysis.calibration.hooks import watch
from ...analysis.dataflow import first_tensor
from ...core.errors import InputError
from ...core.tensors.dispatch import unfused


@dataclass
class CapturedFeatures:
    """What taps took from one forward.

    Attributes:
        outputs: layer -> its output.
        before_relu: layer -> the same before the ReLU that gave it, where one did.
        embedding: input of the classifier.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    before_relu: dict[str, Tensor] = field(default_factory=dict)
    embedding: Tensor | None = None


@contextmanager
def tapped(
    module: nn.Module, names: Sequence[str], classifier: str | None, relu_inputs: Literal["skip", "keep"] = "skip"
) -> Iterator[CapturedFeatures]:
    """While open, forwards of a module fill what is yielded.

    Args:
        module: whose forwards are watched.
        names: layers whose outputs are taken.
        classifier: layer whose input is taken, or None.
        relu_inputs: whether inputs of ReLUs are kept as well, to find features before them.
    """
    taken = CapturedFeatures()
    with ExitStack() as stack:
        inputs_of = stack.enter_context(_relus_watched()) if relu_inputs == "keep" else {}
        for name in dict.fromkeys(names):

            def keep(_module: nn.Module, _inputs: tuple, output: Any, name: str = name) -> None:
                tensor = first_tensor(output)
                if tensor is None:
                    raise InputError(f"layer {name!r} returns no tensor, so that it has no features")
                taken.outputs[name] = tensor
                taken.before_relu[name] = inputs_of.get(id(tensor), (tensor, tensor))[1]

            stack.enter_context(watch(module, {name: keep}))
        if classifier is not None:

            def keep_input(_module: nn.Module, inputs: tuple, _output: Any) -> None:
                taken.embedding = inputs[0]

            stack.enter_context(watch(module, {classifier: keep_input}))
        yield taken


@contextmanager
def _relus_watched() -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """While open, torch.nn.functional.relu notes id(output) -> (output, input); holding the output keeps its id."""
    inputs_of: dict[int, tuple[Tensor, Tensor]] = {}
    original = F.relu

    def watching(input: Tensor, inplace: bool = False) -> Tensor:
        before = input.clone() if inplace else input
        output = original(input, inplace)
        inputs_of[id(output)] = (output, before)
        return output

    F.relu = watching
    try:
        yield inputs_of
    finally:
        F.relu = original


@contextmanager
def attention_watched() -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """While open, every scaled dot-product attention adds its (queries, keys, values) to a list.

    Models that call torch's function are seen, whatever library they come from; the fused inference path of
    nn.MultiheadAttention, which goes around it, is off meanwhile.
    """
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    original = F.scaled_dot_product_attention

    def watching(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        calls.append((query, key, value))
        return original(query, key, value, *rest, **options)

    F.scaled_dot_product_attention = watching
    try:
        with unfused():
            yield calls
    finally:
        F.scaled_dot_product_attention = original
