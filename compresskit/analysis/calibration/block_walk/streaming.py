"""Walking a model block by block: all calibration batches stand before one block until it has been compressed.

Every batch has a forward pass of its own, which runs in a thread and waits before each block. Threads take turns, so
only one runs at a time; what they are for is to suspend a forward in the middle, with whatever it holds between blocks
(shortcuts around them, encoder states, masks). So each block runs a constant number of times whatever the depth, and
what reaches it went through the compressed blocks before it, in the model's own forward.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_map

from ....core.tensors.freed_memory import return_freed_memory, share_memory_pool
from ....core.tensors.modules import eager_modules, evaluating, get_module
from ....core.types import Inputs, call, to_device
from .activation_cache import ActivationCache, storages_of
from .block_step import Entered, Held, Step, copied
from .blocks import Block

#: activations kept in memory where the caller sets no limit
_MOST_BYTES = 512 << 20
#: weights of a block from which on each of its calls is worth handing freed memory back
_LARGE_BLOCK_BYTES = 4 << 20


class _Stopped(BaseException):
    """Ends a forward pass that nobody waits for any longer."""


def walk(
    root: nn.Module,
    blocks: Sequence[Block],
    batches: Sequence[Inputs],
    *,
    reference: nn.Module | None = None,
    cache: ActivationCache | None = None,
    device: torch.device | None = None,
) -> Iterator[Step]:
    """Go through a model's blocks in order, all batches at once; the caller changes each block while it is its turn.

    Args:
        root: the model, in eval mode meanwhile.
        blocks: of it, in the order in which they run.
        batches: calibration inputs.
        reference: the model whose activations are the reference: another one with modules of the same names, or root
            itself, whose blocks are then run as they are before the caller changes them; None for no reference.
        cache: where activations wait; by default half a GiB of them in memory, the rest in temporary files.
        device: where batches are moved first; None leaves them where they are.
    Yields:
        a step for each block that any batch reaches.
    """
    with ExitStack() as stack:
        cache = stack.enter_context(cache or ActivationCache(_MOST_BYTES))
        models = [root] if reference is None or reference is root else [root, reference]
        stack.enter_context(evaluating(*models))
        stack.enter_context(_without_key_value_cache(models))
        owned = {storage._cdata for storage in storages_of([*_tensors(models), *batches])}
        lanes = stack.enter_context(_Lanes(root, blocks, batches, cache, owned, device))
        others = None
        if reference is not None:
            others = stack.enter_context(_Lanes(reference, blocks, batches, cache, owned, device))
        for index, block in enumerate(blocks):
            inputs = lanes.at(index)
            if not len(inputs):
                continue
            step = Step(block, root, inputs)
            if others is not None:
                step.reference_inputs, step.reference_outputs = others.pass_through(index)
            return_freed_memory()
            yield step
        # behind the last block nothing is left to be seen, so no forward is run to its end


class _Lane:
    """One batch's forward pass.

    Attributes:
        index: of the block before which it waits; -1 before it begins, None when it is done.
        entered: what enters that block.
        left: what left the block before.
    """

    def __init__(self, run: Callable[[], Any]):
        self.index: int | None = -1
        self.entered: Entered = ((), {})
        self.left: Any = None
        self._run, self._stopping = run, False
        self._error: BaseException | None = None
        self._made: list[StorageWeakRef] = []
        self._turn, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._main, daemon=True)

    def advance(self) -> None:
        """Run to the next block, or to the end."""
        if self.thread.ident is None:
            self.thread.start()
        self.entered = ((), {})
        self._turn.release()
        self._waits.acquire()
        if self._error is not None:
            raise self._error

    def wait(self, index: int, entered: Entered) -> None:
        """Called by the forward itself, before a block."""
        self.index, self.entered = index, entered
        self._waits.release()
        self._turn.acquire()
        if self._stopping:
            raise _Stopped

    def note(self, output: Any) -> None:
        """Called by the forward itself: what a module gave, which it may hold for later."""
        self._made += [StorageWeakRef(storage) for storage in storages_of(output)]

    def holds(self) -> list[UntypedStorage]:
        """Storages that the forward holds while it waits, as far as they are known."""
        self._made = [reference for reference in self._made if not reference.expired()]
        alive = [UntypedStorage._new_with_weak_ptr(reference.cdata) for reference in self._made]
        return [*storages_of(self.entered), *(storage for storage in alive if storage is not None)]

    def stop(self) -> None:
        """End it where it stands."""
        if self.thread.is_alive():
            self._stopping = True
            self._turn.release()
            self.thread.join()

    def _main(self) -> None:
        self._turn.acquire()
        try:
            if not self._stopping:
                with torch.no_grad():
                    self._run()
        except _Stopped:
            pass
        except BaseException as error:  # raised again by `advance`, where the caller is
            self._error = error
        self.index = None
        self._waits.release()


class _Lanes:
    """The forward passes of all batches through one model."""

    def __init__(
        self,
        root: nn.Module,
        blocks: Sequence[Block],
        batches: Sequence[Inputs],
        cache: ActivationCache,
        owned: set[int],
        device: torch.device | None,
    ):
        self._root, self._blocks, self._cache, self._owned = root, blocks, cache, owned

        def run(inputs: Inputs) -> Any:
            return call(root, to_device(inputs, device) if device else inputs)

        self._lanes = [_Lane(partial(run, inputs)) for inputs in batches]
        sizes = [sum(one.nbytes for name in block.modules for one in get_module(root, name).parameters())
                 for block in blocks]  # fmt: skip
        self._tidies = max(sizes, default=0) >= _LARGE_BLOCK_BYTES
        self._hooks = ExitStack()

    def __enter__(self) -> _Lanes:
        if self._tidies:
            share_memory_pool()
        running = {lane.thread: lane for lane in self._lanes}
        inside = {name for block in self._blocks for name in block.modules}
        for index, block in enumerate(self._blocks):

            def enter(_module: nn.Module, args: tuple, kwargs: dict, index: int = index) -> None:
                if lane := running.get(threading.current_thread()):
                    lane.wait(index, (args, kwargs))

            def leave(_module: nn.Module, _args: tuple, output: Any, copies: bool = block.fleeting) -> None:
                if lane := running.get(threading.current_thread()):
                    lane.left = tree_map(copied, output) if copies else output
                    lane.note(output)

            first, last = (get_module(self._root, block.modules[end]) for end in (0, -1))
            self._hooks.callback(first.register_forward_pre_hook(enter, with_kwargs=True, prepend=True).remove)
            self._hooks.callback(last.register_forward_hook(leave).remove)

        def note(_module: nn.Module, _args: tuple, output: Any) -> None:
            if lane := running.get(threading.current_thread()):
                lane.note(output)

        for name, module in eager_modules(self._root):
            if name and not any(name == one or name.startswith(f"{one}.") for one in inside):
                self._hooks.callback(module.register_forward_hook(note).remove)
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.stop()
        self._hooks.close()

    def at(self, index: int) -> Held:
        """Bring all lanes to a block; what enters it there."""
        held = Held(self._cache, copies=self._blocks[index].mutates)
        for lane in self._lanes:
            while lane.index is not None and lane.index < index:
                self._advance(lane)
            if lane.index == index:
                held.parts.append(lane.entered)
        return held

    def pass_through(self, index: int) -> tuple[Held, Held]:
        """Send all lanes through a block; what entered it, and what left it."""
        block = self._blocks[index]
        inputs, outputs = Held(self._cache, copies=block.mutates), Held(self._cache)
        self.at(index)
        for lane in self._lanes:
            if lane.index != index:
                continue
            entered = lane.entered
            if block.fleeting:
                with self._cache.loaded(entered):
                    entered = tree_map(copied, entered)
            self._advance(lane)
            for held, part in ((inputs, entered), (outputs, lane.left)):
                self._cache.park(self._others(storages_of(part)))
                held.parts.append(part)
            lane.left = None
        return inputs, outputs

    def _advance(self, lane: _Lane) -> None:
        self._cache.release(lane.holds())
        lane.left = None
        lane.advance()
        if self._tidies:
            return_freed_memory()
        self._cache.park(self._others(lane.holds()))

    def _others(self, storages: Iterable[UntypedStorage]) -> list[UntypedStorage]:
        """Storages that are not the model's weights or the caller's batches."""
        return [storage for storage in storages if storage._cdata not in self._owned]


def _tensors(models: Iterable[nn.Module]) -> Iterator[Tensor]:
    for model in models:
        yield from model.parameters()
        yield from model.buffers()


@contextmanager
def _without_key_value_cache(models: Iterable[nn.Module]) -> Iterator[None]:
    """Models of the transformers library keep no keys and values of past tokens inside; a block run twice would add to
    them twice."""
    configs = {
        id(config): config for model in models for one in model.modules() if (config := getattr(one, "config", None))
    }
    caching = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True
