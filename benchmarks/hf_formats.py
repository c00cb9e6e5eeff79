"""Perplexity of tinylm in this package, and as transformers reads it from compressed-tensors folders and GGUF files.

python benchmarks/hf_formats.py --blocks 40
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.transformers import transformers as read
from compresskit.export.tables import EXPORTERS
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

SCHEMES: list[dict[str, Any]] = [
    {"scheme": "int4-weight", "granularity": "group", "group_size": 32},
    {"scheme": "int8-weight"},
]


def blocks_of(model: str, file: Path, count: int) -> torch.Tensor:
    """The first blocks of 128 tokens of a file, texts joined by token 0."""
    tokenizer, ids = transformers.AutoTokenizer.from_pretrained(model), []
    for line in file.open():
        ids += [*tokenizer(json.loads(line)["text"]).input_ids, 0]
        if len(ids) > 128 * count:
            break
    return torch.tensor(ids[: 128 * count]).reshape(-1, 128)


@torch.no_grad()
def perplexity(module: nn.Module, blocks: torch.Tensor) -> float:
    """exp of the mean loss of the tokens after the first of each block."""
    total = 0.0
    for block in blocks.split(20):
        logits = module(input_ids=block).logits[:, :-1].float()
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / blocks[:, 1:].numel())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="../shared/models/tinylm")
    parser.add_argument("--texts", type=Path, default=Path("../shared/data/pytext/test.jsonl"))
    parser.add_argument("--blocks", type=int, default=40)
    options = parser.parse_args()
    blocks = blocks_of(options.model, options.texts, options.blocks)
    print("float", perplexity(load_model(f"hf:{options.model}").module, blocks), flush=True)
    for scheme in SCHEMES:
        loaded = load_model(f"hf:{options.model}")
        quantize(loaded, QuantizeOptions(**scheme), Context(loaded.clone()))
        print(scheme, "ours", perplexity(loaded.module, blocks), flush=True)
        for name in ("gguf", "compressed-tensors"):
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch, "model.gguf") if name == "gguf" else Path(scratch)
                EXPORTERS.load(name)(loaded, path, ExportOptions(format=name))
                files = [file for file in Path(scratch).iterdir() if file.suffix in (".gguf", ".safetensors")]
                size_bytes = sum(file.stat().st_size for file in files)
                found = perplexity(read(Exported(loaded.module, None, path, loaded.example, 1)), blocks)
                print(scheme, name, size_bytes, found, flush=True)


if __name__ == "__main__":
    main()
