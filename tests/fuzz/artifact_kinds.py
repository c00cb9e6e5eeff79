"""Artifacts and weights files with their manifest, edits, source, tensors or bytes changed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compresskit.model.checkpoints.weights import sha256_of

from .kinds import SMALL, kind
from .mutation import mutated, noisy


def _artifact(draw: random.Random, good: Path, scratch: Path) -> Path:
    chosen = draw.choice(sorted((good / "artifacts").iterdir()))
    shutil.copytree(chosen, scratch / "a")
    return scratch / "a"


def _read(draw: random.Random, folder: str, good: Path) -> list[str]:
    """A command that reads an artifact: most of what is hostile is met while it loads, the rest by data and by diff."""
    trust = draw.choice(([], ["--trust-source"]))
    commands = (
        ["inspect", folder, *trust],
        ["inspect", folder, "--json", *trust],
        ["inspect", folder, "--data", f"npz:{good}/d.npz", *trust],
        ["diff", str(good / "artifacts" / "plain"), folder, "--latency-rounds", "0", *trust],
    )
    return draw.choice(commands)


@kind
def manifest_values(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Values of a manifest replaced, removed, added, moved."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    content = json.loads(path.read_text())
    for key in ("provenance", "versions"):  # read by nothing; changing them is no test
        content[key] = {}
    path.write_text(json.dumps(mutated(content, draw, draw.choice((1, 1, 1, 2, 3)))))
    return _read(draw, "a", good)


@kind
def manifest_bytes(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Bytes of a manifest changed."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    path.write_bytes(noisy(path.read_bytes(), draw))
    return _read(draw, "a", good)


@kind
def manifest_edits(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Edits changed or added, everything else left good."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    content = json.loads(path.read_text())
    edits = content["edits"] or [{"op": "resize", "target": "0", "shapes": {"weight": [5, 1, 3, 3]}, "attributes": {}}]
    extra = [
        {"op": "quantized", "target": "0", "parameters": ["weight"], "format": "int", "bits": 4, "packed": True},
        {"op": "factored", "target": "3", "kind": "svd", "rank": 4, "bias": True},
        {"op": "merged", "target": "3", "layer": {"form": "conv", "in_channels": 4, "out_channels": 4, "kernel": [3]}},
        {"op": "merged", "target": "3", "layer": {"form": "lstm", "input_size": 4, "hidden_size": 4}},
        {"op": "fold", "target": "0", "norm": "1"},
        {"op": "skip", "target": "2", "as_tuple": 1},
        {"op": "remove", "target": "2"},
        {"op": "free_heads", "target": "2"},
        {"op": "plain_weights", "target": "0", "shapes": {"weight": [1]}},
        {"op": "materialize", "target": "0", "inputs": [[1, 2]]},
    ]
    content["edits"] = mutated([*edits, draw.choice(extra)], draw, draw.choice((0, 1, 2)))
    path.write_text(json.dumps(content))
    return _read(draw, "a", good)


@kind
def manifest_source(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Sources of other kinds, their arguments hostile."""
    path = _artifact(draw, good, scratch) / "manifest.json"
    content = json.loads(path.read_text())
    chain = [{"op": "conv", "out": 8, "kernel": 3}, {"op": "pool"}] * draw.choice((1, 2, 5000))
    sources = [
        {"kind": "builtin", "name": "chain", "args": {"layers": chain, "input_shape": [1, 8, 8]}},
        {"kind": "builtin", "name": "digits_mlp", "args": {"hidden": draw.choice((3, 10**5, 10**9, -1))}},
        {"kind": "builtin", "name": "lenet5", "args": {"size": draw.choice((3, 8, 10**6)), "channels": 2}},
        {"kind": "builtin", "name": "cifar_resnet110", "args": {"width": draw.choice((1, 10**6))}},
        {"kind": "file", "path": draw.choice(("../net.py", "/etc/passwd", "net.py")), "factory": "make", "args": {}},
        {"kind": "module", "module": draw.choice(("os", "no.such", "")), "factory": "system", "args": {"command": "x"}},
    ]
    content["source"] = mutated(draw.choice(sources), draw, draw.choice((0, 1, 2)))
    path.write_text(json.dumps(content))
    return _read(draw, "a", good)


@kind
def artifact_weights(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Weights of an artifact changed, their hash made to match."""
    folder = _artifact(draw, good, scratch)
    path = folder / "model.safetensors"
    if draw.random() < 0.5:
        path.write_bytes(noisy(path.read_bytes(), draw))
    else:
        tensors = load_file(path)
        name = draw.choice(sorted(tensors))
        tensors[name] = _spoiled(tensors[name], draw)
        if draw.random() < 0.2:
            tensors[draw.choice(("x", "0.weight::zip::x", "::", "0.weight::bitmap::values"))] = torch.ones(3)
        save_file(tensors, path)
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, "weights_sha256": sha256_of(path)}))
    return _read(draw, "a", good)


def _spoiled(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    types = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool)
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: tensor.double() * float("nan"),
        lambda: torch.full(tensor.shape, draw.choice((float("inf"), 1e30, -1e30, 0.0, 255.0))),
        lambda: tensor.to(draw.choice(types)),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.reshape(-1),
        lambda: tensor.reshape(-1)[:-1].clone(),
        lambda: torch.zeros(draw.choice(((), (0,), (1,), (2, 2), (1, 1, 1, 1, 1)))),
        lambda: torch.randint(0, 255, tensor.shape, dtype=torch.uint8),
        lambda: torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
    ]
    return draw.choice(changes)().contiguous()


@kind
def weights_file(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """A weights file whose bytes or suffix changed."""
    suffix = draw.choice((".safetensors", ".pt"))
    content = noisy((good / f"w{suffix}").read_bytes(), draw)
    name = f"w{draw.choice((suffix, suffix, suffix, '.pth', '.bin', '.ckpt', '.safetensors', ''))}"
    (scratch / name).write_bytes(content)
    return ["inspect", SMALL, "--weights", name + draw.choice(("", "", "", "#x", "#"))]
