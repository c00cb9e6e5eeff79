"""Transformers, from the folder that was written."""

from __future__ import annotations

from torch import nn

from ...core.errors import require
from ..folders.fresh_process import auto_class
from .exported import Exported


def transformers(exported: Exported) -> nn.Module:
    """The model that `AutoModel.from_pretrained` loads from the folder."""
    library = require("transformers", "hf")
    config = library.AutoConfig.from_pretrained(str(exported.path))
    return auto_class(config).from_pretrained(str(exported.path)).eval()
