"""Building a source record again: on the meta device where that works, else for real, whatever the failure.

On meta nothing is allocated or drawn, so a large model is there at once and only its file is read. But a constructor
may compute with values (`linspace(...).item()`, `if mask.any()`, a numpy filter bank), which meta tensors lack. It may
raise anything then, catch its own exception and go another way, or leave meta tensors in lists, closures and helper
objects. So a model built on meta counts only when nothing of meta is left in it, and, where its outputs are known,
when it computes them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CompresskitError, InputError, described
from ..core.limits.build_limits import check_size, counted
from ..core.tensors.copying import is_filled
from ..core.types import Loaded
from ..model.builders import USER_CODE, builder, seeded
from . import edits as edit_records
from .module_state import ModuleState, fill, state_of
from .probing import same_outputs

META, REAL = "meta", "cpu"


class ProbeMismatch(CompresskitError):
    """A rebuilt model computes something else than the one that it comes from: a defect, not the user's mistake."""


class NotRepeatable(InputError, ProbeMismatch):
    """A model's source does not give the same model twice, so no artifact can be made of it."""


def rebuilds(
    source: dict[str, Any],
    edits: Iterable[dict[str, Any]],
    state: ModuleState,
    *,
    seed: int = 0,
    device: str | None = None,
    where: str = "the model",
) -> Iterator[tuple[str, nn.Module]]:
    """The model built on meta, where that works; then, if the caller asks on, built for real.

    Args:
        source: the source record.
        edits: replayed on the unedited module.
        state: what goes into the edited module.
        seed: of the generators in the constructor.
        device: "cpu" where the source is known not to build on meta; otherwise meta is tried first.
        where: what to call the state's origin in errors.
    Yields:
        (device of the build, the filled module in eval mode).
    Raises:
        InputError: if the record names nothing that can be built, or building for real fails.
    """
    edits = list(edits)
    device = REAL if source.get("kind") == "memory" else device  # a copy has its values
    # outside of any device: what a file computes at its top stays real
    make = _limited(source, builder(source), state, where)
    if device != REAL:
        try:
            module = _rebuild(make, edits, state, seed, where, META)
        except Exception:  # building for real comes next, and raises what is really wrong
            module = None
        if module is not None:
            yield META, module
        module = None  # freed before the next one is allocated
        make = _limited(source, builder(source), state, where)  # a file's caches may hold meta tensors by now
    if source.get("kind") not in USER_CODE:
        check_size(make, where, sum(tensor.nbytes for tensor in state.tensors.values()))
    try:
        module = _rebuild(make, edits, state, seed, where, REAL)
    except CompresskitError:
        raise
    except Exception as error:
        raise InputError(f"{where}: building the model again raised {described(error)}") from error
    if module is None:
        raise InputError(f"{where}: the constructor puts tensors on the meta device, so that their values are lost")
    yield REAL, module


def _limited(
    source: dict[str, Any], make: Callable[[], nn.Module], state: ModuleState, where: str
) -> Callable[[], nn.Module]:
    """The same builder, refused where a description makes far more layers than its weights are; code is free."""
    if source.get("kind") in USER_CODE:
        return make

    def limited() -> nn.Module:
        with counted(where, len(state.tensors)):
            return make()

    return limited


def check_rebuild(loaded: Loaded) -> str:
    """Whether a model can be built again and then computes the same; the question that saving ends with, at once.

    Returns:
        The device on which the source builds, "meta" or "cpu".
    Raises:
        InputError: if the source does not give the same model twice.
        ProbeMismatch: if the edits do not say all that was changed.
    """
    return matching_rebuild(
        loaded,
        partial(rebuilds, loaded.source, loaded.edits, state_of(loaded.module), seed=loaded.seed, where=loaded.name),
    )[0]


def matching_rebuild(loaded: Loaded, attempts: Callable[..., Iterator[tuple[str, nn.Module]]]) -> tuple[str, nn.Module]:
    """The first rebuild that computes what the model computes.

    Args:
        loaded: the model.
        attempts: `rebuilds` with everything given but the device.
    Raises:
        InputError: if the source does not give the same model twice.
        ProbeMismatch: if the edits do not say all that was changed.
    """
    last: Loaded | None = None
    for device, module in attempts():
        last = Loaded(module, loaded.source, loaded.example, name=loaded.name)
        try:
            if same_outputs(loaded, last):
                return device, module
        except CompresskitError:
            if device == REAL:
                raise
    _, again = next(iter(attempts(device=REAL)))
    second = Loaded(again, loaded.source, loaded.example, name=loaded.name)
    if not loaded.edits or last is None or not same_outputs(last, second):
        raise NotRepeatable(
            f"model {loaded.name!r}: building it again gives another model. Its constructor takes something besides "
            "its arguments (a generator without a seed, the time, a file that changed), or values that its forward "
            "reads stand outside of parameters and buffers; register them as buffers"
        )
    raise ProbeMismatch(f"model {loaded.name!r}: the reloaded artifact computes another output than the model")


def _rebuild(
    make: Callable[[], nn.Module], edits: list[dict], state: ModuleState, seed: int, where: str, device: str
) -> nn.Module | None:
    """The filled module in eval mode, or None where meta tensors are left."""
    with seeded(seed), warnings.catch_warnings(), torch.device(device), _imports_for_real():
        if device == META:
            warnings.simplefilter("ignore")  # of copies that do nothing on meta
        module = edit_records.replay(make(), edits)
    fill(module, state, where)
    return None if any(tensor.is_meta for tensor in held_tensors(module)) else module.eval()


def held_tensors(root: nn.Module) -> Iterator[Tensor]:
    """Every tensor that a module holds: parameters, buffers, and what attributes, containers and closures lead to."""
    yield from root.parameters()
    yield from root.buffers()
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | str | bytes | int | float | None):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
            continue
        waiting += _leads_to(item)


def _leads_to(item: Any) -> list[Any]:
    """What an object holds, one level down, without running anything of its own."""
    if isinstance(item, Mapping) and type(item).__module__ in ("builtins", "collections"):
        return [*item.keys(), *item.values()]
    if isinstance(item, list | tuple | set | frozenset):
        return list(item)
    if isinstance(item, partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, MethodType):
        return [item.__self__, item.__func__]
    if isinstance(item, FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if is_filled(cell)]
        return [*cells, *(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
    slots = [name for kind in type(item).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    held = [getattr(item, name, None) for name in slots if name not in ("__dict__", "__weakref__")]
    own = getattr(item, "__dict__", None)
    return [*held, *own.values()] if isinstance(own, dict) and not _is_module(item) else held


def _names(slots: Any) -> Iterable[str]:
    return [slots] if isinstance(slots, str) else slots


def _is_module(item: Any) -> bool:
    return isinstance(item, type(sys))


@contextmanager
def _imports_for_real():
    """Modules first imported meanwhile run on the CPU: their constants outlive a build on meta."""
    finder = _RealImports()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _RealImports(MetaPathFinder):
    """Finds nothing by itself; has what the other finders find executed on the CPU."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        for other in sys.meta_path:
            find = None if isinstance(other, _RealImports) else getattr(other, "find_spec", None)
            spec = find(fullname, path, target) if find else None
            if spec is None:
                continue
            # built-in and frozen modules have a class for a loader, and no tensors
            if spec.loader is not None and not isinstance(spec.loader, type) and hasattr(spec.loader, "exec_module"):
                spec.loader.exec_module = partial(_execute_for_real, spec.loader.exec_module)
            return spec
        return None


def _execute_for_real(execute: Callable[[Any], None], module: Any) -> None:
    with torch.device(REAL):
        execute(module)
