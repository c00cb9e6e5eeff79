"""What a torch file may hold beside tensors: plain data. Anything else in it is refused, and nothing in it runs.

`torch.load(weights_only=True)` knows tensors and the basic containers. Training code also stores numpy scalars, paths,
argparse namespaces and configuration containers; those that are data and nothing else are let through here.
Configuration containers of other packages are replaced by stand-ins that keep nothing, so that their packages are not
imported.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import pathlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

#: containers of other packages, all plain data: a stand-in takes their place
_CONTAINERS = (
    "addict.addict.Dict",
    "box.box.Box",
    "box.box_list.BoxList",
    "detectron2.config.config.CfgNode",
    "easydict.EasyDict",
    "fvcore.common.config.CfgNode",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "ml_collections.config_dict.config_dict.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "munch.Munch",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "timm.utils.misc.AttrDict",
    "types.SimpleNamespace",
    "yacs.config.CfgNode",
)
#: types that are only named, as the default of a container or of a configuration's field
_NAMES = (
    *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "str", "tuple", "bool", "object")),
    "typing.Any",
)


class _StandIn(OrderedDict):
    """Takes any arguments, entries and state of a container; nobody reads them."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()  # the exact type that the unpickler fills


def _empty_dict(*factory: Any) -> dict:
    """A defaultdict without its default, which a file could otherwise have called."""
    return {}


def safe_globals() -> list[Callable | tuple[Callable, str]]:
    """Names that a torch file may use, for `torch.serialization.safe_globals`."""
    found: list[Callable | tuple[Callable, str]] = [argparse.Namespace, np.ndarray, np.dtype]
    multiarray: Any = importlib.import_module("numpy._core.multiarray")  # no stub describes it
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since numpy 2
        found += [(multiarray.scalar, f"{module}.scalar")]
        found += [(multiarray._reconstruct, f"{module}._reconstruct")]
    found += [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    found += [datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone]
    for module in ("pathlib", "pathlib._local"):  # the latter in Python 3.13
        found += [(pathlib.PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath", "Path")]
        found += [(pathlib.PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    found += [(_empty_dict, "collections.defaultdict")]
    found += [(_StandIn, name) for name in (*_CONTAINERS, *_NAMES)]
    return found
