"""Recipes with their text or values changed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from .kinds import kind
from .mutation import mutated, noisy

RECIPE = """\
model: builtin:digits_cnn_small
model_arg: {num_classes: 10}
data: npz:d.npz
metric: top1
seed: 3
latency_rounds: 0
eval_limit: 8
output: out
steps:
  - prune: {ratio: 0.5, criterion: l1, recover: finetune, epochs: 1, lr: 0.01}
  - quantize: {bits: 8}
"""


@kind
def recipe_text(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """YAML with bytes changed and hostile pieces put in."""
    shutil.copyfile(good / "d.npz", scratch / "d.npz")
    pieces = (
        "&a [*a]", "[" * 2000, "\0", "<<: *x", "? [1]\n: 2\n", "---\n", "!!python/object:os.x {}", "1e999", "9" * 5000,
        ".inf", "{a: {b: {c: {d: 1}}}}", "\t", "~: 1\n", "2024-01-01", "0x_", "!!binary x", "'", "\ufeff", "\u2028",
    )  # fmt: skip
    text = RECIPE
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(pieces) + text[at + draw.choice((0, 0, 1, 5)) :]
    content = text.encode("utf-8", "surrogatepass")
    (scratch / "r.yaml").write_bytes(noisy(content, draw) if draw.random() < 0.3 else content)
    return ["run", "r.yaml", "--dry-run", "-q"]


@kind
def recipe_values(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """A recipe's values replaced, as a file or by --set."""
    import yaml

    shutil.copyfile(good / "d.npz", scratch / "d.npz")
    content = yaml.safe_load(RECIPE)
    arguments = []
    if draw.random() < 0.6:
        content = mutated(content, draw, draw.choice((1, 1, 2)))
    else:
        path = draw.choice(("seed", "steps.0.prune.ratio", "model", "data_arg.size", "input", "steps.1", "", "a.b.c"))
        arguments = ["--set", f"{path}={draw.choice(('&a [*a]', '9' * 3000, '{', '.nan', '[]', '-1', 'x', '[1]: 2'))}"]
    (scratch / "r.yaml").write_text(json.dumps(content))
    return ["run", "r.yaml", "--dry-run", "-q", *arguments]
