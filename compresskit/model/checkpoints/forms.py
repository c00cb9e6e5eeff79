"""Plain weights from the forms that training code stores: weight norm, spectral norm, pruning masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_PARAMETRIZED = ".parametrizations."


def plain_forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Plain weights that a mapping's tensors stand for: name -> value and the names that it was computed from.

    Known forms are `x_orig` with `x_mask` (torch.nn.utils.prune), `x_g` with `x_v` (weight norm), `x_orig` with `x_u`
    and `x_v` (spectral norm), and the last two as parametrizations.
    """
    found: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    known = dict(tensors)
    for name in [name for name in known if name.endswith("_mask")]:
        base = name.removesuffix("_mask")
        original = known.get(f"{base}_orig")
        if original is not None and original.shape == known[name].shape:
            found[base] = original * known[name].to(original.dtype), (f"{base}_orig", name)
            known.setdefault(base, found[base][0])
    for name in list(known):
        result = _weight_norm(name, known) or _spectral_norm(name, known)
        if result is not None:
            base, value, read = result
            # a norm over a masked tensor stands on the mask's tensors too
            sources = (found[source][1] if source in found else (source,) for source in read)
            found[base] = value, tuple(dict.fromkeys(own for each in sources for own in each))
    return {name: entry for name, entry in found.items() if name not in tensors}


def _parametrized(name: str, leaf: str) -> tuple[str, str] | None:
    """`a.parametrizations.weight.LEAF` -> ('a.weight', 'a.parametrizations.weight'); None for other names."""
    stem, dot, last = name.rpartition(".")
    head, middle, tensor = f".{stem}".rpartition(_PARAMETRIZED)
    if last != leaf or not dot or not middle or "." in tensor:
        return None
    return f"{head}.{tensor}".lstrip("."), stem


def _weight_norm(name: str, known: Mapping[str, Tensor]) -> tuple[str, Tensor, tuple[str, str]] | None:
    """w = g v / ||v|| (Salimans & Kingma, "Weight Normalization", NeurIPS 2016, eq. 2)."""
    if name.endswith("_g"):
        base, direction = name.removesuffix("_g"), f"{name.removesuffix('_g')}_v"
    elif place := _parametrized(name, "original0"):
        base, direction = place[0], f"{place[1]}.original1"
        if f"{place[1]}.original2" in known:
            return None
    else:
        return None
    length, vector = known[name], known.get(direction)
    if vector is None or not vector.is_floating_point() or not length.is_floating_point():
        return None
    if length.dim() == vector.dim():
        kept = [axis for axis, size in enumerate(length.shape) if size != 1]
        if len(kept) > 1 or any(length.shape[axis] != vector.shape[axis] for axis in kept):
            return None
        axis = kept[0] if kept else next((axis for axis, size in enumerate(vector.shape) if size == 1), -1)
    elif length.numel() == 1:
        axis = -1
    else:
        return None
    wide = torch.promote_types(vector.dtype, torch.float32)
    compute = torch._weight_norm  # pyright: ignore[reportPrivateImportUsage]  # has no public name
    value = compute(vector.to(wide), length.to(wide).reshape(length.shape), axis)
    return base, value.to(vector.dtype), (name, direction)


def _spectral_norm(name: str, known: Mapping[str, Tensor]) -> tuple[str, Tensor, tuple[str, str, str]] | None:
    """w / (u^T w v) (Miyato et al., "Spectral Normalization", ICLR 2018, eq. 8)."""
    if name.endswith("_orig"):
        base = name.removesuffix("_orig")
        names = (name, f"{base}_u", f"{base}_v")
    elif place := _parametrized(name, "original"):
        base = place[0]
        names = (name, f"{place[1]}.0._u", f"{place[1]}.0._v")
        if any(other.startswith(f"{place[1]}.1.") for other in known):
            return None
    else:
        return None
    if not all(other in known for other in names):
        return None
    weight, left, right = (known[other] for other in names)
    wide = torch.promote_types(weight.dtype, torch.float32)
    sigmas = [
        torch.dot(left.to(wide), weight.to(wide).movedim(axis, 0).reshape(size, -1) @ right.to(wide))
        for axis, size in enumerate(weight.shape)
        if left.shape == (size,) and right.shape == (weight.numel() // max(size, 1),)
    ]
    if not sigmas:
        return None
    # the axis is not stored; singular vectors belong to the unfolding in which they give the largest value
    return base, (weight.to(wide) / max(sigmas, key=lambda sigma: abs(float(sigma)))).to(weight.dtype), names
