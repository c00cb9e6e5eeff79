"""How near a model's outputs in a runtime are to its outputs in eager PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.tensors.dtypes import as_real, widened
from ..core.types import Inputs, call, main_output
from .exporters.output_names import named_tensors
from .measures.matched_boxes import are_lists_of_boxes, partners

#: differences of outputs, as a share of the largest, that no order of additions explains, and none of roundings
_LARGEST_FLOAT, _LARGEST_ROUNDED = 0.02, 0.1


@torch.no_grad()
def compare(module: nn.Module, runner: nn.Module, batches: list[Inputs]) -> dict[str, Any]:
    """How near a runtime's outputs are to the module's.

    Returns:
        agreement: share of outputs with the same largest entry; largest_difference and output_scale (largest
        |output|) of the module; compared_samples. Where both return several tensors of the same names:
        output_differences and output_scales, the same of each. Of detectors, samples are boxes, and a box agrees that
        has a partner of its label; differences are those of partners.
    Raises:
        InputError: if an output has another shape in the runtime.
    """
    same, total, largest, scale = 0, 0, 0.0, 0.0
    each: dict[str, float] = {}
    scales: dict[str, float] = {}
    module.eval()
    for inputs in batches:
        all_wanted, all_found = call(module, inputs), call(runner, inputs)
        detects = are_lists_of_boxes(all_wanted) and are_lists_of_boxes(all_found)
        if detects:
            all_wanted, all_found, pairs, boxes = partners(all_wanted, all_found)
            same, total = same + pairs, total + boxes
        wanted, found = widened(main_output(all_wanted)), main_output(all_found)
        largest = max(largest, difference(wanted, found))
        if not detects:
            same += int((wanted.argmax(-1) == found.argmax(-1)).sum())
            total += wanted.argmax(-1).numel()
        scale = max(scale, _largest(wanted))
        by_name = named_tensors(all_wanted)
        for name, value in differences(all_wanted, all_found).items():
            each[name] = max(each.get(name, 0.0), value)
            scales[name] = max(scales.get(name, 0.0), _largest(by_name[name]))
    facts = {
        "agreement": same / total if total else 1.0,
        "largest_difference": largest,
        "output_scale": scale,
        "compared_samples": total,
    }
    return facts | ({"output_differences": each, "output_scales": scales} if len(each) > 1 else {})


def wrong_outputs(facts: Mapping[str, Any], *, rounds: bool) -> list[str]:
    """A line where outputs in the runtime are not those of the model.

    Args:
        facts: as `compare` returns them, with the name of the runtime.
        rounds: whether the model rounds as it computes: what differs a little may fall on another code.
    """
    each = facts.get("output_differences", {"output": facts["largest_difference"]})
    scales = facts.get("output_scales", {"output": facts["output_scale"]})
    shares = {name: value / scales[name] if scales[name] else float(value > 0) for name, value in each.items()}
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] <= (_LARGEST_ROUNDED if rounds else _LARGEST_FLOAT):
        return []
    return [
        f"warning: in {facts['runtime']} {worst!r} differs from the model's in PyTorch by {shares[worst]:.2g} of its "
        "largest value; compare another runtime before you ship this file"
    ]


def _largest(tensor: Tensor) -> float:
    return float(as_real(tensor).double().abs().max()) if tensor.numel() else 0.0


def differences(wanted: Any, found: Any) -> dict[str, float]:
    """The largest difference of each output that both structures name.

    Raises:
        InputError: if an output has another shape in the runtime.
    """
    wanted_by_name, found_by_name = named_tensors(wanted), named_tensors(found)
    return {
        name: difference(wanted_by_name[name], tensor, name)
        for name, tensor in found_by_name.items()
        if name in wanted_by_name
    }


def difference(wanted: Tensor, found: Tensor, name: str = "") -> float:
    """The largest difference between two tensors of one shape; infinities and NaN in both at one place are equal.

    Raises:
        InputError: if the shapes differ.
    """
    if wanted.shape != found.shape:
        shown = f" as {name!r}" if name else ""
        shapes = f"{list(found.shape)}{shown} where the model returns {list(wanted.shape)}"
        raise InputError(f"the runtime returned {shapes}")
    wanted, found = as_real(wanted).double(), as_real(found).double()
    gap = (wanted - found).abs()
    gap = torch.where((wanted == found) | (wanted.isnan() & found.isnan()), torch.zeros_like(gap), gap)
    return float(gap.max()) if gap.numel() else 0.0
