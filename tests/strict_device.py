"""A stand-in for an accelerator, and every technique on it: its tensors hold those of the CPU and refuse to meet one.

Where no accelerator is at hand, this shows what a real one would refuse: a tensor made on the CPU, an input that was
not moved, an index on the wrong side. Run as a script, it prints a line for each piece of work of `gpu_check.py` in
benchmarks: whether the edits are those of the CPU, and the largest relative difference of weights.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("strict")
DEVICE = torch.device("strict:0")
#: what keeps a row short: every operation passes through Python
SMALL: dict[str, Any] = {"iterations": 10, "joint_iterations": 10, "reconstruction_samples": 64, "epochs": 0.25}
_FEW = {"calibration_samples": 64}
EXAMPLES = {"prune": {"samples": 64}, "decompose": _FEW | {"kind": "channel-svd"}, "quantize": _FEW}
_WEIGHTS_ALONE = ("nf4", "codebook")  # rows that read no data
_COPIES = ("copy_", "_to_copy")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")  # positions may lie on the CPU


class StrictTensor(Tensor):
    """A tensor of the stand-in."""

    @staticmethod
    def __new__(cls, held: Tensor) -> StrictTensor:
        """Of the form of what it holds."""
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip

    def __init__(self, held: Tensor):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """As that of an accelerator's tensor."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, StrictTensor) else tensor


def _is_strict(device: Any) -> bool:
    return torch.device(device).type == "strict"


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Do an operation on what the tensors hold, once all of them lie on one side."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    strict = [tensor for tensor in tensors if isinstance(tensor, StrictTensor)]
    if name == "_to_copy":
        source, place = args[0], kwargs.get("device")
        options = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "device")}
        copied = func(_held(source), **options)
        return StrictTensor(copied) if (bool(strict) if place is None else _is_strict(place)) else copied
    others = [tensor for tensor in tensors if not isinstance(tensor, StrictTensor) and tensor.dim()]
    if strict and others and name not in _COPIES + _INDEXING:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got strict:0 and cpu")
    made_here = bool(strict)
    if kwargs.get("device") is not None:
        made_here = _is_strict(kwargs["device"])
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = pytree.tree_map_only(StrictTensor, _held, (args, kwargs))
    output = func(*held_args, **held_kwargs)
    if name == "copy_":
        return args[0]
    if not made_here:
        return output
    return return_and_correct_aliasing(func, args, kwargs, pytree.tree_map_only(Tensor, StrictTensor, output))


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return StrictTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return StrictTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, target, non_blocking=False):
    _held(target).copy_(_held(source))
    return target


_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
torch.strict.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]


def main() -> None:
    """Print a line for each piece of work."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks" / "house"))
    import gpu_check

    import compresskit

    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "trained"))
        compresskit.train(
            "builtin:digits_cnn", model_arg={"width": 8}, data="digits", epochs=1, output=model, latency_rounds=0,
            device="cpu",
        )  # fmt: skip
        for name in sys.argv[1:]:
            technique, options = gpu_check.ROWS[name]
            options = {key: min(value, SMALL[key]) if key in SMALL else value for key, value in options.items()}
            examples = {} if name in _WEIGHTS_ALONE else EXAMPLES.get(technique, {})
            options |= examples | {"eval_limit": 32}
            (mine, edits, _), (other, others, _) = (
                gpu_check.done(technique, options, model, device, Path(folder, "made"))
                for device in ("cpu", str(DEVICE))
            )
            gap = gpu_check.difference(mine.model.state_dict(), other.model.state_dict())
            print(f"{name}: {'the same edits' if edits == others else 'other edits'}, {gap}", flush=True)


if __name__ == "__main__":
    main()
