"""Arrays from files and factories as tensors that a model and a loss take, or one line that says why not."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CompresskitError, InputError, first_line
from ..core.limits.build_limits import memory_bytes
from ..core.limits.reading import check_regular

_NUMBERS = "biufc"  # NumPy's kinds: truth values, whole numbers, floats, complex numbers
_WIDENED = (torch.uint16, torch.uint32, torch.uint64)  # most operators do not take these


def read_npz(location: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays of a NumPy archive, by name; those that are not there are left out.

    Headers are read first: an archive that says it holds more than this machine's memory is refused unread.

    Raises:
        InputError: if the file is missing, no archive, damaged, or holds objects.
    """
    where = f"data file {location!r}"
    check_regular(location, where)
    try:
        with zipfile.ZipFile(location) as archive:
            members = set(archive.namelist())
            for name in names:
                if f"{name}.npy" in members:
                    _check_header(archive, f"{name}.npy", where)
        with np.load(Path(location), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names if name in arrays.files}
    except CompresskitError:
        raise
    except Exception as error:  # zipfile, zlib, ast and tokenize each have errors of their own
        raise InputError(f"{where} is not a readable .npz archive: {first_line(error)[:200]}") from error


def names_in_npz(location: str) -> list[str]:
    """Names of the arrays of an archive that `read_npz` has read."""
    with zipfile.ZipFile(location) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _check_header(archive: zipfile.ZipFile, member: str, where: str) -> None:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        held = archive.getinfo(member).file_size - file.tell()
    name = member.removesuffix(".npy")
    if dtype.hasobject:
        raise InputError(f"{where}: array {name!r} holds objects, which are never loaded; save numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or wanted != held:
        raise InputError(f"{where}: array {name!r} is {list(shape)} of {dtype}, {wanted:,} bytes, but holds {held:,}")
    if wanted > memory_bytes():
        raise InputError(f"{where}: array {name!r} takes {wanted:,} bytes, more than this machine's memory")


def to_tensor(values: Any, what: str) -> Tensor:
    """Numbers of any source as a dense tensor in this machine's byte order, one entry an example.

    Args:
        values: a tensor, an array, or nested lists.
        what: what errors call it, e.g. "data 'npz:d.npz': inputs".
    Raises:
        InputError: if it is not made of numbers, or has no dimension to count examples by.
    """
    try:
        tensor = values if isinstance(values, Tensor) else _from_array(np.asarray(values), what)
    except CompresskitError:
        raise
    except Exception as error:  # ragged lists, objects that fail as they are read
        raise InputError(f"{what} are not made of numbers: {first_line(error)[:200]}") from error
    if tensor.is_meta:
        raise InputError(f"{what} are a tensor on the meta device, which has no values")
    if tensor.layout != torch.strided or tensor.is_quantized:
        tensor = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    if tensor.dim() == 0:
        raise InputError(f"{what} are a single number; the first dimension must count examples")
    tensor = tensor.detach()
    if tensor.dtype in _WIDENED:
        tensor = _widened(tensor, what)
    return tensor


def _from_array(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in _NUMBERS or array.dtype.itemsize > 16 or array.dtype in (np.longdouble, np.clongdouble):
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        else:
            raise InputError(f"{what} are of type {str(array.dtype)[:60]}; give numbers")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def _widened(tensor: Tensor, what: str) -> Tensor:
    wide = tensor.to(torch.int64)
    if tensor.dtype == torch.uint64 and bool((wide < 0).any()):
        raise InputError(f"{what} hold whole numbers beyond 2**63")
    return wide


def check_inputs(inputs: Tensor, where: str) -> None:
    """Refuse inputs that are not finite."""
    if (inputs.is_floating_point() or inputs.is_complex()) and not bool(torch.isfinite(inputs).all()):
        raise InputError(f"data {where!r}: inputs hold NaN or infinite values")


def check_targets(targets: Tensor, where: str) -> None:
    """Refuse targets that no loss can be computed against: complex, not finite, or classes below zero."""
    if targets.is_complex():
        raise InputError(f"data {where!r}: targets are complex; give their parts as floats")
    if targets.is_floating_point() and not bool(torch.isfinite(targets).all()):
        raise InputError(f"data {where!r}: targets hold NaN or infinite values")
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    if whole and targets.dim() == 1 and len(targets) and int(targets.min()) < 0:
        lowest = int(targets.min())
        raise InputError(f"data {where!r}: there is a class {lowest}; classes count from 0 (regression takes floats)")


def classes_in_floats(targets: Any, *, where: str, required: bool) -> Any:
    """Whole numbers in floats as integers; what is no tensor of floats stays what it is.

    Args:
        targets: of a batch.
        where: what errors call the data.
        required: whether floats that are no whole numbers are refused; else they stay what they are.
    Raises:
        InputError: naming the first such float.
    """
    if not isinstance(targets, Tensor) or not targets.is_floating_point():
        return targets
    classes = targets.round()
    if bool((classes == targets).all()):
        return classes.long()
    if required:
        first = float(targets[classes != targets][0])
        raise InputError(
            f"{where}: targets hold {first:g}, which is no class; leave the task to auto, or give integers"
        )
    return targets
