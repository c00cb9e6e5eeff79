"""Chains for a teacher's data: the smallest one, what it costs, and a loaded one from a description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.tensors.devices import device_of
from ...core.tensors.randomness import manual_seed
from ...core.types import Loaded, call, main_output
from ...model.chain import Chain, chain, chain_costs, checked

_LAST_SIDE = 2  # pools of a starting chain halve the sides down to this


class ChainSpace:
    """Chains that take what a teacher takes and answer as it does.

    Args:
        teacher: an image classifier.
    Raises:
        InputError: if it is none.
    """

    def __init__(self, teacher: Loaded):
        example = teacher.example
        if not isinstance(example, torch.Tensor) or example.dim() != 4:
            raise InputError(
                f"model {teacher.name!r} takes no images; policies transform and nas make image classifiers"
            )
        with torch.no_grad():
            outputs = main_output(call(teacher.module.eval(), example))
        if outputs.dim() != 2:
            raise InputError(
                f"model {teacher.name!r} gives no logits; policies transform and nas make image classifiers"
            )
        self._teacher = teacher
        self.input_shape = tuple(example.shape[1:])
        self.num_classes = outputs.shape[1]

    def costs(self, layers: list[dict[str, Any]]) -> dict[str, float]:
        """MACs and parameters of a chain."""
        return chain_costs(layers, self.input_shape, self.num_classes)

    def arguments(self, layers: list[dict[str, Any]]) -> dict[str, Any]:
        """The arguments of builtin:chain for a chain, JSON-able."""
        wanted = self._teacher.preprocessing
        given = {"layers": layers, "input_shape": list(self.input_shape), "num_classes": self.num_classes}
        return {**given, **({"mean": list(wanted.mean), "std": list(wanted.std)} if wanted.mean else {})}

    def load(self, layers: list[dict[str, Any]], seed: int = 0) -> Loaded:
        """A chain with random weights that depend on the seed."""
        arguments = self.arguments(checked(layers, self.input_shape))
        with torch.random.fork_rng(devices=[]):
            manual_seed(seed)
            return self.wrap(chain(**arguments), layers)

    def wrap(self, net: Chain, layers: list[dict[str, Any]]) -> Loaded:
        """A module of this description, with all that is needed to build it again."""
        source = {"kind": "builtin", "name": "chain", "args": self.arguments([dict(layer) for layer in layers])}
        example = self._teacher.example
        device = example.device if isinstance(example, Tensor) else device_of(self._teacher.module)
        return Loaded(
            net.to(device).eval(),
            source,
            self._teacher.example,
            preprocessing=self._teacher.preprocessing,
            name="chain",
        )

    def seed(self, width: int) -> list[dict[str, Any]]:
        """A small chain: one convolution of a width at each resolution, from the images' down to 2 pixels a side."""
        layers: list[dict[str, Any]] = [{"op": "conv", "out": width, "kernel": 3}]
        side = min(self.input_shape[1:])
        while side >= 2 * _LAST_SIDE:
            side //= 2
            layers += [{"op": "pool"}, {"op": "conv", "out": width, "kernel": 3}]
        return layers


def layers_of(loaded: Loaded) -> list[dict[str, Any]]:
    """The description of a loaded chain, a copy."""
    return [dict(layer) for layer in loaded.source["args"]["layers"]]


def next_width(width: int, widths: Sequence[int]) -> int | None:
    """The smallest listed width above one; None at the end."""
    return next((wanted for wanted in sorted(widths) if wanted > width), None)
