"""tinylm in quantized formats, as this package, transformers and llama.cpp compute it: perplexity on the same blocks.

    npm install --ignore-scripts --prefix /tmp/llama node-llama-cpp
    python benchmarks/language/hf_formats.py --blocks 40 --llama-cpp /tmp/llama --out benchmarks/results/hf_formats.md

The second table is of random weights: whether llama.cpp computes each architecture that GGUF files are written of.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.transformers import transformers as read
from compresskit.export.tables import EXPORTERS
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

GROUPS = {"granularity": "group", "group_size": 32}
#: what is shown -> options of quantize; none for the float model
SCHEMES: dict[str, dict[str, Any]] = {
    "float": {},
    "int4-weight, groups of 32": {"scheme": "int4-weight", **GROUPS},
    "the same with zero points": {"scheme": "int4-weight", "weight_range": "affine", **GROUPS},
    "int8-weight": {"scheme": "int8-weight"},
    "q4-k": {"scheme": "q4-k"},
    "q5-k": {"scheme": "q5-k"},
}
K_SCHEMES = ("q2-k", "q3-k", "q4-k", "q5-k", "q6-k")
SIZES: dict[str, int] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
NEW_TOKENS = 8


class LlamaCpp(NamedTuple):
    """What llama.cpp found; see llama_cpp.mjs."""

    release: str
    losses: list[float]
    continuations: list[list[int]]
    lastLogits: list[float]
    tokens: list[list[int]]

    def perplexity(self, blocks: torch.Tensor) -> float:
        return math.exp(sum(self.losses) / blocks[:, 1:].numel())


def llama_cpp(packages: str, file: Path, blocks: torch.Tensor, texts: list[str]) -> LlamaCpp:
    """Run a GGUF file on blocks of tokens, in llama.cpp."""
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch, "request.json")
        request.write_text(json.dumps({"blocks": blocks.tolist(), "texts": texts, "newTokens": NEW_TOKENS}))
        script = Path(__file__).with_name("llama_cpp.mjs")
        answer = Path(scratch, "answer.json")
        run = subprocess.run(["node", script, packages, file, request, answer], stderr=subprocess.PIPE, check=False)
        if run.returncode:
            raise SystemExit(run.stderr.decode()[-2000:])
        return LlamaCpp(**json.loads(answer.read_text()))


def texts_of(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.open()]


def blocks_of(model: str, texts: list[str], count: int) -> torch.Tensor:
    """The first blocks of 128 tokens of texts that are joined by token 0."""
    tokenizer, ids = transformers.AutoTokenizer.from_pretrained(model), list[int]()
    for text in texts:
        ids += [*tokenizer(text).input_ids, 0]
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


@torch.no_grad()
def continuations(module: nn.Module, blocks: torch.Tensor) -> list[list[int]]:
    """Greedy continuations of blocks, without a cache."""
    ids = blocks
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, module(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, blocks.shape[1] :].tolist()


def tinylm_rows(options: argparse.Namespace, texts: list[str]) -> list[str]:
    rows: list[str] = []

    def row(*cells: str) -> None:
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)

    blocks = blocks_of(options.model, texts, options.blocks)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    for name, scheme in SCHEMES.items():
        loaded = load_model(f"hf:{options.model}")
        if scheme:
            quantize(loaded, QuantizeOptions(**scheme), Context(loaded.clone()))
        row(name, "compresskit", "", f"{perplexity(loaded.module, blocks):.5f}", "")
        wanted = continuations(loaded.module, blocks)
        for form in ("gguf", *(["compressed-tensors"] if name in ("int4-weight, groups of 32", "int8-weight") else [])):
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch, "model.gguf") if form == "gguf" else Path(scratch)
                (note, *_) = EXPORTERS.load(form)(loaded, path, ExportOptions(format=form)) or [""]
                files = [file for file in Path(scratch).iterdir() if file.suffix in (".gguf", ".safetensors")]
                size = f"{sum(file.stat().st_size for file in files):,}"
                found = perplexity(read(Exported(loaded.module, None, path, loaded.example, 1)), blocks)
                where = f"GGUF ({note.removeprefix('tensors: ')})" if form == "gguf" else "compressed-tensors"
                row("", f"transformers, from {where}", size, f"{found:.5f}", "")
                if form == "gguf" and options.llama_cpp:
                    theirs = llama_cpp(options.llama_cpp, path, blocks, texts)
                    same = sum(one == other for one, other in zip(theirs.continuations, wanted, strict=True))
                    assert theirs.tokens == [tokenizer(text).input_ids for text in texts]
                    row(
                        "",
                        f"llama.cpp {theirs.release}",
                        size,
                        f"{theirs.perplexity(blocks):.5f}",
                        f"{same} of {len(blocks)}",
                    )
    return rows


def architecture_rows(packages: str, scratch: Path) -> list[str]:
    """Random models of all architectures in float, and of one in all K-quants."""
    rows = []
    cases = [(name, "") for name in ("Llama", "Mistral", "Qwen2", "Qwen3")] + [("Llama", k) for k in K_SCHEMES]
    for name, scheme in cases:
        loaded = random_model(name, scratch / name)
        if scheme:
            quantize(loaded, QuantizeOptions(scheme=scheme, first_last="same"), Context(loaded.clone()))
        blocks = torch.randint(3, 512, (4, 64), generator=torch.Generator().manual_seed(0))
        (note, *_) = EXPORTERS.load("gguf")(loaded, scratch / "model.gguf", ExportOptions(format="gguf")) or [""]
        theirs = llama_cpp(packages, scratch / "model.gguf", blocks, [])
        with torch.no_grad():
            logits = loaded.module(input_ids=blocks[:1]).logits[0, -1].float()
        gap = float((torch.tensor(theirs.lastLogits) - logits).abs().max() / logits.abs().max())
        wanted = continuations(loaded.module, blocks)
        same = sum(one == other for one, other in zip(theirs.continuations, wanted, strict=True))
        cells = [name, note.removeprefix("tensors: "), f"{gap:.1e}", f"{same} of {len(blocks)}"]
        rows.append(f"| {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return rows


def random_model(name: str, folder: Path) -> Loaded:
    """A model of random weights, large enough that its logits differ, and a tokenizer of single pieces."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, initializer_range=0.08)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    pieces = {name: number for number, name in enumerate(["a", "b", "ab", *(f"piece{i}" for i in range(509))])}
    split = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    content = {"model": {"type": "BPE", "vocab": pieces, "merges": ["a b"]}, "pre_tokenizer": split, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return load_model(f"hf:{folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="../shared/models/tinylm")
    parser.add_argument("--texts", type=Path, default=Path("../shared/data/pytext/test.jsonl"))
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--llama-cpp", help="where npm installed node-llama-cpp")
    parser.add_argument("--out", type=Path, help="markdown file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = texts_of(options.texts)
    rows, others = tinylm_rows(options, texts), list[str]()
    if options.llama_cpp:
        with tempfile.TemporaryDirectory() as scratch:
            others = architecture_rows(options.llama_cpp, Path(scratch))
    names = ("torch", "transformers", "compressed-tensors", "gguf")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    lines = [
        "# Quantized formats that others read: perplexity of tinylm", "",
        f"`python benchmarks/language/hf_formats.py --blocks {options.blocks} --llama-cpp DIR`: the first "
        f"{options.blocks} "
        f"blocks of 128 tokens of pytext's test part, on one thread. {versions}, llama.cpp in the prebuilt binaries of "
        "the npm package node-llama-cpp.", "",
        "| scheme | read by | bytes | perplexity | greedy continuations as ours |", "| --- | --- | --- | --- | --- |",
        *rows, "",
        "llama.cpp rounds what quantized layers read to 8 bits and keeps keys and values in float16, hence its "
        "differences; scales are float16 in the files. Its tokenizer gives the same ids for all texts.", "",
    ]  # fmt: skip
    if others:
        lines += [
            "Random weights, blocks of 64 tokens, each continued by 8:", "",
            "| architecture | tensors | largest difference of logits, of the largest | continuations as ours |",
            "| --- | --- | --- | --- |", *others, "",
        ]  # fmt: skip
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
