"""Good inputs, copies of which the kinds spoil."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from .execution import run
from .kinds import SMALL

#: artifact -> (the edit it must hold, the command that makes it)
MADE_BY_COMMANDS = {
    "pruned": ("resize", ["prune", SMALL, "--ratio", "0.5"]),
    "int4": ("quantized", ["quantize", SMALL, "--scheme", "int4-weight"]),
    "factored": ("factored", ["decompose", SMALL, "--energy", "0.8", "--slower-layers", "allow"]),
}


def prepare(folder: Path) -> Path:
    """Make artifacts of several sources and edits, weights files, data files.

    Args:
        folder: where to; it is made if it is not there.
    Returns:
        the folder.
    Raises:
        RuntimeError: if an artifact is not made, or without the edit that it is there for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _make_artifacts(folder)
    _make_data(folder, np.random.default_rng(0))
    return folder


def _make_artifacts(folder: Path) -> None:
    from compresskit.artifact import artifact
    from compresskit.artifact.source import load_model

    artifacts = folder / "artifacts"
    plain = load_model(SMALL)
    artifact.save(plain, artifacts / "plain")
    for name, (edit, command) in MADE_BY_COMMANDS.items():
        outcome = run([*command, "--latency-rounds", "0", "-q", "-o", str(artifacts / name)], folder)
        if outcome.code != 0:
            raise RuntimeError(f"the good input {name!r} was not made: rc {outcome.code}: {outcome.lines}")
        edits = json.loads((artifacts / name / "manifest.json").read_text())["edits"]
        if edit not in {one["op"] for one in edits}:
            raise RuntimeError(f"the good input {name!r} has no edit {edit!r}: {edits}")
    sparse = plain.clone()
    weight = sparse.module[7].weight
    with torch.no_grad():
        weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.9] = 0
    sparse.storage["7.weight"] = "bitmap"
    artifact.save(sparse, artifacts / "sparse")
    save_file(plain.module.state_dict(), folder / "w.safetensors")
    torch.save(plain.module.state_dict(), folder / "w.pt")
    (folder / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    artifact.save(load_model(f"{folder}/net.py:make", inputs=["1,8,8"]), artifacts / "code")


def _make_data(folder: Path, rng: np.random.Generator) -> None:
    np.savez(folder / "d.npz", x=rng.random((40, 1, 8, 8), dtype=np.float32), y=np.arange(40) % 10)
    rows = "\n".join(",".join(f"{value:.3f}" for value in rng.random(64)) + f",{i % 10}" for i in range(30))
    (folder / "d.csv").write_text(",".join(f"c{i}" for i in range(64)) + ",label\n" + rows + "\n")
    for label in range(3):
        (folder / "images" / f"class{label}").mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"class{label}" / f"{index}.png")
