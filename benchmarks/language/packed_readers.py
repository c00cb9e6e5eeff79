"""Folders in the layouts of GPTQ and AWQ as transformers with GPTQModel reads them, on a CPU: perplexity of tinylm.

    BUILD_CUDA_EXT=0 pip install --no-deps --target /tmp/gptq gptqmodel optimum logbar tokenicer device-smi \
        threadpoolctl defuser pypcre dill
    PYTHONPATH=/tmp/gptq:. python benchmarks/language/packed_readers.py --out benchmarks/results/packed_readers.md
"""

from __future__ import annotations

import argparse
import tempfile
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from hf_formats import blocks_of, perplexity, texts_of
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.export.options import ExportOptions
from compresskit.export.tables import EXPORTERS
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

GROUPS = {"scheme": "int4-weight", "granularity": "group", "group_size": 64}
#: layout, options of quantize, who reads it
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("gptq", {**GROUPS, "first_last": "same"}, "transformers"),
    ("gptq", {**GROUPS, "first_last": "same", "weight_range": "affine"}, "transformers"),
    ("gptq", {"scheme": "int8-weight"}, "transformers"),
    ("gptq", {**GROUPS, "scheme": "int2-weight", "first_last": "same"}, "transformers"),
    ("gptq", GROUPS, "transformers"),
    ("gptq", GROUPS, "GPTQModel"),
    ("awq", GROUPS, "transformers"),
    ("awq", {**GROUPS, "weight_range": "affine"}, "transformers"),
]


def read(folder: Path, reader: str) -> nn.Module:
    """The model that a reader makes of a folder."""
    if reader == "GPTQModel":
        library = import_module("gptqmodel")
        return library.GPTQModel.load(
            str(folder), backend=library.BACKEND.TORCH, device="cpu", dtype=torch.float16
        ).model
    return transformers.AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="../shared/models/tinylm")
    parser.add_argument("--texts", type=Path, default=Path("../shared/data/pytext/test.jsonl"))
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--out", type=Path, help="markdown file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    blocks = blocks_of(options.model, texts_of(options.texts), options.blocks)
    rows = []
    for layout, scheme, reader in CASES:
        loaded = load_model(f"hf:{options.model}")
        quantize(loaded, QuantizeOptions(**scheme), Context(loaded.clone()))
        with tempfile.TemporaryDirectory() as folder:
            EXPORTERS.load(layout)(loaded, Path(folder), ExportOptions(format=layout))
            try:
                module = read(Path(folder), reader)
                kind = type(module.get_submodule("model.layers.1.mlp.down_proj")).__name__
                found = f"{perplexity(module, blocks):.5f}"
            except Exception as error:  # the reader's own
                kind, found = "", f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        shown = ", ".join(f"{name} {value}" for name, value in scheme.items())
        rows.append(f"| {layout} | {shown} | {reader} | {kind} | {perplexity(loaded.module, blocks):.5f} | {found} |")
        print("ROW", rows[-1], flush=True)
    names = ("torch", "transformers", "gptqmodel", "optimum")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    lines = [
        "# GPTQ and AWQ folders, read by others", "",
        f"`python benchmarks/language/packed_readers.py --blocks {options.blocks}`: tinylm on the first "
        f"{options.blocks} blocks "
        f"of 128 tokens of pytext's test part. {versions}; on a CPU, without extensions.", "",
        "| layout | options of quantize | reader | layer | our perplexity | theirs |",
        "| --- | --- | --- | --- | --- | --- |", *rows, "",
        "transformers takes one number of bits and one group size for all layers of `gptq`, GPTQModel and vLLM also "
        "what stands under `dynamic`; GPTQModel computes in float16 here.", "",
    ]  # fmt: skip
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
