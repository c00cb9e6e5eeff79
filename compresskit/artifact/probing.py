"""Probes: what a model computes on its example inputs, recorded, compared with a record, or with another model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ForwardError, described
from ..core.tensors.batches import tensors_of
from ..core.tensors.devices import device_of
from ..core.tensors.randomness import manual_seed
from ..core.types import Loaded, call, children, main_output
from ..model.example_inputs import settle

_PROBE_VALUES = 64  # values of the main output kept in the manifest
#: of the largest output: kernels differ between machines, structure errors are far larger
PROBE_TOLERANCE = 1e-3
#: of the largest value: where equal weights lie in memory otherwise (channels last), kernels round otherwise
_SAME_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-5, torch.complex64: 1e-5}
_SAME_TOLERANCE_HALF = 1e-2
_LARGEST_STATE = 2**20  # elements of a buffer that forward may change (counters, caches); weights are larger


def probe(loaded: Loaded) -> dict[str, Any]:
    """What a model computes on its example inputs.

    Returns:
        values (the first of the main output), norm and shape of the main output, and norm and shape of every tensor
        in the outputs by its path. Values are empty, and tensors left out, where the model draws them at random.
    Raises:
        ForwardError: if the model does not take its example inputs.
    """
    first, second = outputs_of(loaded), outputs_of(loaded)
    steady = [path for path, value in first.items() if path in second and _equal(value, second[path])]
    main = first[""].reshape(-1)
    record = {
        "values": [_json(value) for value in main[:_PROBE_VALUES].double().tolist()] if "" in steady else [],
        "norm": _norm(main) if "" in steady else 0.0,
        "shape": list(first[""].shape),
    }
    # integers (the best classes, say) may change places where two values are nearly equal
    floating = [path for path in steady if path and first[path].is_floating_point()]
    others = {path: {"shape": list(first[path].shape), "norm": _norm(first[path])} for path in floating}
    return {**record, "outputs": others} if others else record


def probe_difference(loaded: Loaded, recorded: dict[str, Any]) -> float:
    """Largest difference from a recorded probe, relative to its largest value; infinite if shapes differ.

    Raises:
        ForwardError: if the model does not take its example inputs.
    """
    wanted = recorded.get("outputs", {})
    if not recorded["values"] and not wanted:
        return 0.0
    found = outputs_of(loaded)
    differences = [_norm_difference(found.get(path), entry) for path, entry in wanted.items()]
    if recorded["values"]:
        values = torch.tensor([float(value) for value in recorded["values"]], dtype=torch.float64)
        main = found[""]
        if list(main.shape) == [*recorded["shape"], 2]:
            main = main[..., 0]  # the first releases recorded the real part of a complex output alone
        differences.append(_norm_difference(main, recorded))
        if math.isfinite(differences[-1]):
            differences.append(_relative(main.reshape(-1)[: len(values)].double(), values))
    return max(differences)


def same_outputs(first: Loaded, second: Loaded) -> bool:
    """Whether two models compute the same on the first one's example, each tensor that they return.

    Bit-equal as a rule; values may differ by rounding, since equal weights may lie otherwise in memory. Draws of the
    generator are the same for both.
    """
    device = device_of(first.module)
    second.module.to(device)
    wanted, found = (outputs_of(loaded, example=first.example, generator_seed=0) for loaded in (first, second))
    if set(wanted) != set(found):
        return False
    tolerance = _tolerance(first.module)
    return all(
        _equal(value, found[path])
        or (value.shape == found[path].shape and _relative(found[path].double(), value.double()) <= tolerance)
        for path, value in wanted.items()
    )


@torch.no_grad()
def outputs_of(loaded: Loaded, *, example: Any = None, generator_seed: int | None = None) -> dict[str, Tensor]:
    """Every tensor that a model returns on its example inputs: path -> tensor on the CPU; "" is the main output.

    The example is settled (`model.example_inputs.settle`), and buffers that forward changes are put back.

    Args:
        loaded: the model; put in eval mode.
        example: instead of the model's own.
        generator_seed: seeds torch for the forward; None draws on.
    Raises:
        ForwardError: if forward raises or returns no tensor.
    """
    module = loaded.module.eval()
    example = settle(loaded.example if example is None else example)
    try:
        with _buffers_kept(module), torch.random.fork_rng(devices=[], enabled=generator_seed is not None):
            if generator_seed is not None:
                manual_seed(generator_seed)
            outputs = call(module, example)
            found = {"": _plain(main_output(outputs))}
            found |= {path: _plain(tensor) for path, tensor in _tensors(outputs)}
    except Exception as error:
        shapes = ", ".join(f"{list(tensor.shape)} {tensor.dtype}" for tensor in tensors_of(example))
        raise ForwardError(
            f"model {loaded.name!r} does not take its example inputs ({shapes.replace('torch.', '')}): "
            f"{described(error)}; say what it takes with --input"
        ) from error
    return found


def _tensors(outputs: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in children(outputs):
        inner = f"{path}.{name}" if path else name
        if isinstance(value, Tensor):
            yield inner, value
        else:
            yield from _tensors(value, inner)


def _plain(tensor: Tensor) -> Tensor:
    """A dense copy on the CPU; complex numbers as pairs."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.cpu().clone()


@contextmanager
def _buffers_kept(module: nn.Module):
    """Buffers that forward changes (counters, caches) hold afterwards what they held before."""
    before = [
        (owner, leaf, value, _copy_of_state(value))
        for owner in module.modules()
        for leaf, value in owner._buffers.items()
    ]
    try:
        yield
    finally:
        for owner, leaf, value, copied in before:
            owner._buffers[leaf] = value
            if value is not None and copied is not None and value._version != copied[1]:
                value.copy_(copied[0])


def _copy_of_state(value: Tensor | None) -> tuple[Tensor, int] | None:
    if value is None or value.is_inference() or value.numel() > _LARGEST_STATE:
        return None
    return value.clone(), value._version


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal, NaN counted as equal to itself."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.allclose(first.double(), second.double(), rtol=0.0, atol=0.0, equal_nan=True)


def _relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest wanted value; infinite where one is finite and the other is not."""
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(found)) or not _equal(found[~finite], wanted[~finite]):
        return math.inf
    if not finite.any():
        return 0.0
    return float((found[finite] - wanted[finite]).abs().max()) / max(float(wanted[finite].abs().max()), 1e-12)


def _norm(tensor: Tensor) -> float:
    tensor = tensor.double()
    return float(tensor[torch.isfinite(tensor)].norm())


def _norm_difference(found: Tensor | None, entry: dict[str, Any]) -> float:
    if found is None or list(found.shape) != entry["shape"]:
        return math.inf
    return abs(_norm(found) - entry["norm"]) / max(entry["norm"], 1e-6)


def _tolerance(module: nn.Module) -> float:
    tensors = [*module.parameters(), *module.buffers()]
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
    return max((_SAME_TOLERANCE.get(dtype, _SAME_TOLERANCE_HALF) for dtype in dtypes), default=0.0)


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no inf and nan
