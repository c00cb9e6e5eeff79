"""compresskit makes trained PyTorch models smaller and faster, and measures what it did.

    import compresskit

    result = compresskit.prune(net, data=loader, target_macs=0.5, recover="finetune")
    result.model        # an ordinary nn.Module
    result.save("out")  # an artifact; compresskit.load("out", model=net) reads it

Everything is imported when it is first used: `import compresskit` brings no torch.
"""

from __future__ import annotations

import sys

__version__ = "0.1.0"

_TECHNIQUES = ("train", "prune", "quantize", "decompose", "distill", "search")
_VERBS = (*_TECHNIQUES, "run", "export", "measure", "bench", "predict", "evaluate", "pack")
#: public name -> module of this package; the verbs are made in `api.verbs`
_HOMES = {
    "load": "api.models",
    "save": "api.models",
    "Result": "api.result",
    "Measurement": "pipeline.measurement",
    "CompresskitError": "core.errors",
    "InputError": "core.errors",
    "GuardMissed": "core.errors",
}
__all__ = ["__version__", *_VERBS, *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  # the stub lists them


def __getattr__(name: str) -> object:
    if name not in _VERBS and name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # `python -m compresskit` has the current folder first in its path until __main__ takes it out: not imported above
    import importlib

    home = importlib.import_module(f".{_HOMES.get(name, 'api.verbs')}", __name__)
    found = getattr(home, name) if name in _HOMES else home.verb(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(type(sys)):  # type: ignore[misc]  # the type of modules, without an import
    """This package, in which a verb stays the function where a room has its name (`compresskit.search`).

    Importing `compresskit.search.options` would set the attribute `search` to the room.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _VERBS and isinstance(value, type(sys)):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
