"""Edits: JSON-able records of a model's final geometry, and replaying them.

An edit is a flat mapping with `op` (a row of EDITS) and `target` (a dotted module path); the other keys are
the op's own. Replaying works on any device, meta included, and sets shapes only: weights come afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.manifest.edit_records import EditRecord, Integer, Name, Shape, as_record, reads
from ..core.registry import Registry, Row, is_reference
from ..core.tensors.modules import get_module, set_module
from ..model.checkpoints.weights import sha256_of

_MOST_INTEGERS = 4096  # of one attribute
#: without which an encoder does not take its fused path
_FUSED = {nn.TransformerEncoder: "use_nested_tensor", nn.TransformerEncoderLayer: "activation_relu_or_gelu"}

#: every op an artifact may name; rows resolve lazily, so core does not import the packages above it
EDITS: Registry[Callable[[nn.Module, dict[str, Any]], None]] = Registry(
    "edit",
    "compresskit",
    {
        "resize": Row(
            "artifact.edits:resize",
            "tensors of a module take new shapes, and integer attributes new values",
        ),
        "remove": Row("artifact.edits:remove", "a module becomes an identity"),
        "plain_weights": Row("model.plain_weights:replay", "weights computed in every forward become plain ones"),
        "materialize": Row("model.wrappers:replay_materialize", "a lazy layer takes the shapes that inputs give it"),
        "skip": Row("artifact.skips:replay", "a block passes its input through"),
        "renumber": Row("artifact.config_edits:replay_renumber", "skipped layers leave their list"),
        "config": Row("artifact.config_edits:replay_config", "a transformers configuration follows the shapes"),
        "untie": Row("artifact.config_edits:replay_untie", "a head gets a weight of its own"),
        "free_heads": Row(
            "pruning.structured.free_heads:replay",
            "multi-head attention becomes one whose head width is free",
        ),
        "quantized": Row("quantization.layers.conversion:replay", "a layer becomes a quantized layer"),
        "kv_cache": Row("quantization.kv_cache:replay", "keys and values are cached in few bits"),
        "fold": Row("quantization.transforms.folding:replay", "a layer takes up the batch normalization after it"),
        "factored": Row("decomposition.surgery.layers:replay", "a layer becomes a chain of smaller layers"),
        "merged": Row("decomposition.surgery.layers:replay_merged", "a chain of factors becomes one layer again"),
    },
)


def check(edits: Iterable[dict[str, Any]], where: str) -> None:
    """Check edits that a manifest holds against the record of their op; nothing is built.

    Raises:
        InputError: naming the first edit that is malformed, and what is wrong with it.
    """
    for number, edit in enumerate(edits):
        op = edit.get("op")
        if not isinstance(op, str) or op not in EDITS:
            raise InputError(f"{where}: edit {number}: op {str(op)[:80]!r} is not one of {', '.join(EDITS)}")
        record = getattr(EDITS.load(op), "record", None)
        if record is None:
            continue
        try:
            as_record(edit, record)
        except ValueError as error:
            raise InputError(f"{where}: edit {number} ({op} {str(edit.get('target'))[:80]}): {error}") from None


def replay(root: nn.Module, edits: Iterable[dict[str, Any]]) -> nn.Module:
    """Apply edits to a freshly built module, in order, in place.

    Raises:
        InputError: if an op is not allow-listed or does not fit the module.
    """
    for number, edit in enumerate(edits):
        op = edit.get("op")
        if not isinstance(op, str) or op not in EDITS:
            raise InputError(f"edit {number}: op {op!r} is not one of {', '.join(EDITS)}")
        try:
            EDITS.load(op)(root, edit)
        except InputError as error:
            raise InputError(f"edit {number} ({op} {edit.get('target')}): {error}") from None
        except Exception as error:  # a layer refuses sizes that do not fit it in many ways
            raise InputError(f"edit {number} ({op} {edit.get('target')}): malformed: {error!r}"[:400]) from error
    return root


def code_of(edits: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The user's own files that edits name a row of, such as a number format: `file.py:name` -> sha256 of the file."""
    named = ((edit, getattr(EDITS.load(edit["op"]), "own_code", None)) for edit in edits)
    names = {own_code(edit) for edit, own_code in named if own_code is not None}
    files = {name: Path(name.rpartition(":")[0]) for name in sorted(names) if is_reference(name)}
    return {name: sha256_of(path) for name, path in files.items() if path.suffix == ".py" and path.is_file()}


def trust(edits: Sequence[dict[str, Any]], hashes: Mapping[str, str]) -> None:
    """Let code of the user's own run that edits name, such as a number format: they trust the artifact.

    Args:
        edits: of an artifact.
        hashes: what its manifest says of the files: `file.py:name` -> sha256.
    Raises:
        InputError: if a file is not there, is another than the manifest says, or raises.
    """
    for name, found in code_of(edits).items():
        if hashes.get(name, found) != found:
            file = name.rpartition(":")[0]
            raise InputError(f"{file!r} does not match the manifest's sha256: it was changed since it was saved")
    for edit in edits:
        allow = getattr(EDITS.load(edit["op"]), "trust", None)
        if allow is not None:
            allow(edit)


class ResizeRecord(EditRecord):
    """Final shapes of tensors and final values of integer attributes."""

    shapes: dict[Name, Shape] = {}
    attributes: dict[Name, Integer | Annotated[list[Integer], Field(max_length=_MOST_INTEGERS)]] = {}


class RemoveRecord(EditRecord):
    """Nothing but the target."""


@reads(ResizeRecord)
def resize(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, shapes: {tensor: [ints]}, attributes: {name: int | [ints]}}: final shapes and attributes.

    A tensor that other modules share (tied weights) stays one tensor.
    """
    module = get_module(root, edit["target"])
    for name, shape in edit.get("shapes", {}).items():
        set_tensor_shape(root, module, name, tuple(int(size) for size in shape))
    for name, value in edit.get("attributes", {}).items():
        set_attribute(module, name, value)


@reads(RemoveRecord)
def remove(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target}: the module at target passes its input through."""
    get_module(root, edit["target"])
    set_module(root, edit["target"], nn.Identity())


def set_tensor_shape(root: nn.Module, module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Replace a module's parameter or buffer by an empty one of the given shape, wherever in `root` it stands."""
    old: Tensor | None = module._parameters.get(name)
    if old is None:
        old = module._buffers.get(name)
    if old is None:
        raise InputError(f"no parameter or buffer {name!r}")
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, old.requires_grad)
    for owner in root.modules():
        names = [key for slots in (owner._parameters, owner._buffers) for key, value in slots.items() if value is old]
        for key in names:
            setattr(owner, key, new)  # recurrent layers keep a list of their weights, which setattr updates


def set_attribute(module: nn.Module, name: str, value: Any) -> None:
    """Set an existing integer (or tuple of integers) attribute; nothing else may be set by an edit."""
    if not hasattr(module, name) or name in module._modules or name in module._parameters or name in module._buffers:
        raise InputError(f"no attribute {name!r}")
    if not all(isinstance(item, int) for item in (value if isinstance(value, list | tuple) else [value])):
        raise InputError(f"attribute {name!r} must be an integer or a list of integers, got {value!r}")
    old = getattr(module, name)
    if not all(isinstance(item, int) for item in (old if isinstance(old, list | tuple) else [old])):
        raise InputError(f"attribute {name!r} is not an integer or a list of integers")
    setattr(module, name, type(old)(value) if isinstance(old, tuple | list) else value)


def leave_fused_paths(root: nn.Module, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Keep torch's transformer encoders from their fused inference path, which reads weights past their layers.

    Args:
        root: the model; changed in place.
        names: layers that stand in the way, with the encoders around them; None for all encoders.
    Returns:
        the edits.
    """
    edits = []
    for name, module in root.named_modules():
        if names is not None and not any(f"{one}.".startswith(f"{name}." if name else "") for one in names):
            continue
        for kind, attribute in _FUSED.items():
            if isinstance(module, kind) and getattr(module, attribute, None):
                edits.append({"op": "resize", "target": name, "attributes": {attribute: 0}})
    replay(root, edits)
    return edits
