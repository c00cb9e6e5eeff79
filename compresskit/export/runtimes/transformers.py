"""Transformers, from the folder or GGUF file that was written."""

from __future__ import annotations

from types import ModuleType

from torch import nn

from ...core.errors import require
from ...core.reporting.loggers import quiet
from ...core.tensors.dtypes import model_dtype
from ..folders.fresh_process import auto_class
from .exported import Exported


def transformers(exported: Exported) -> nn.Module:
    """The model that `AutoModel.from_pretrained` loads from the folder, or from the file."""
    library = require("transformers", "hf")
    with quiet():
        return _opened(library, exported)


def _opened(library: ModuleType, exported: Exported) -> nn.Module:
    if exported.path.is_file():
        given = {"gguf_file": exported.path.name, "dtype": exported.module and model_dtype(exported.module)}
        return library.AutoModelForCausalLM.from_pretrained(str(exported.path.parent), **given).eval()
    config = library.AutoConfig.from_pretrained(str(exported.path))
    return auto_class(config).from_pretrained(str(exported.path)).eval()
