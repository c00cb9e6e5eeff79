"""torch.export's own archives."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.utils import _pytree as pytree

from ...model.exported import DESCRIPTION_FILE
from ..options import ExportOptions
from .export_program import DESCRIPTION
from .output_names import output_names

#: structures that every process can put outputs into
_KNOWN = (None, tuple, list, dict)


def pt2(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as `.pt2`, with what it says of itself beside the graph and no path of this machine.

    Outputs in a class of somebody's own become a mapping of their names.
    """
    about = {DESCRIPTION_FILE: json.dumps(program.graph_module.meta.get(DESCRIPTION, {}))}
    for module in program.graph_module.modules():  # traces name files of this machine
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    signature, spec = program.module_call_graph[0].signature, program.call_spec.out_spec
    if signature is None or spec is None or _is_known(spec) or len(output_names(program)) != spec.num_leaves:
        torch.export.save(program, str(path), extra_files=about)
        return []
    signature.out_spec = pytree.tree_structure(dict.fromkeys(output_names(program), 0))
    try:
        torch.export.save(program, str(path), extra_files=about)
    finally:
        signature.out_spec = spec
    return ["outputs are a mapping in the file, which no class of the model's own is needed to read"]


def _is_known(spec: pytree.TreeSpec) -> bool:
    return spec.type in _KNOWN and all(map(_is_known, spec.children()))
