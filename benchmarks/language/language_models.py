"""Perplexity of tinylm after each method, beside llm-compressor on the same blocks, with CPU time and peak memory.

    python benchmarks/language/language_models.py blocks FOLDER                # the blocks that all rows share
    # rows of OURS, each in a process of its own
    python benchmarks/language/language_models.py ours FOLDER ROW [ROW ...]
    python benchmarks/language/language_models.py peer FOLDER PYTHON ROW ...   # rows of PEER, PYTHON has llm-compressor

tinylm lies in MODEL, its text in TEXT. Blocks of 128 tokens: CALIBRATION of train, TESTED of test, spread over it. A
line of markdown a row: method, who, perplexity, CPU seconds of the work, peak MB above the loaded model.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from calibration_llm import Peak, resident

SHARED = Path(os.environ.get("SHARED", "/work/shared"))
MODEL, TEXT = SHARED / "models" / "tinylm", SHARED / "data" / "pytext"
LENGTH, CALIBRATION, TESTED = 128, 128, 200
ITERATIONS = int(os.environ.get("ITERATIONS", 60))

_G64 = {"granularity": "group", "group_size": 64, "first_last": "same",
        "reconstruct": "none"}  # fmt: skip
_BLOCK = {**_G64, "rounding": "gptq", "reconstruct": "block", "iterations": ITERATIONS, "reconstruction_samples": 256}
#: the peer leaves the head, whose weights are the embedding's, as it is, and sees every position
_SPARSE = {"reconstruct": "none", "protect": ["lm_head"], "positions_per_sample": LENGTH}
_UNIFORM = {"granularity": "weight", "ratio": 0.5, "allocation": "uniform", **_SPARSE}
#: row -> steps: (technique, options)
OURS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "float": [],
    "W4 g64 rtn": [("quantize", {"scheme": "int4-weight", **_G64})],
    "W4 g64 gptq": [("quantize", {"scheme": "int4-weight", "rounding": "gptq", **_G64})],
    "W4 g64 awq": [("quantize", {"scheme": "int4-weight", "awq": True, **_G64})],
    "W4 g64 awq + gptq": [("quantize", {"scheme": "int4-weight", "awq": True, "rounding": "gptq", **_G64})],
    "Q4_K": [("quantize", {"scheme": "q4-k", "first_last": "same", "reconstruct": "none"})],
    "Q4_K gptq": [
        ("quantize", {"scheme": "q4-k", "rounding": "gptq", "first_last": "same", "reconstruct": "none"})
    ],
    "Q3_K gptq": [
        ("quantize", {"scheme": "q3-k", "rounding": "gptq", "first_last": "same", "reconstruct": "none"})
    ],
    "Q2_K gptq": [
        ("quantize", {"scheme": "q2-k", "rounding": "gptq", "first_last": "same", "reconstruct": "none"})
    ],
    "W3 g64 gptq": [("quantize", {"scheme": "int3-weight", "rounding": "gptq", **_G64})],
    "W3 g64 gptq + blocks": [("quantize", {"scheme": "int3-weight", **_BLOCK})],
    "W2 g64 gptq": [("quantize", {"scheme": "int2-weight", "rounding": "gptq", **_G64})],
    "W2 g64 gptq + blocks": [("quantize", {"scheme": "int2-weight", **_BLOCK})],
    "W8A8 dynamic": [("quantize", {"scheme": "int8-dynamic", "reconstruct": "none"})],
    "W8A8 static": [("quantize", {"scheme": "int8-static", "reconstruct": "none"})],
    "2:4 wanda": [("prune", {"granularity": "n:m", "saliency": "wanda", **_SPARSE})],
    "2:4 sparsegpt": [("prune", {"granularity": "n:m", "saliency": "sparsegpt", **_SPARSE})],
    "50 % wanda": [("prune", {"saliency": "wanda", **_UNIFORM})],
    "50 % sparsegpt": [("prune", {"saliency": "sparsegpt", **_UNIFORM})],
    "50 % sparsegpt, solved shares": [("prune", {**_UNIFORM, "saliency": "sparsegpt", "allocation": "auto"})],
    "depth 4 of 6, output": [("prune", {"granularity": "block", "ratio": 0.34})],
    "depth 4 of 6, influence": [
        ("prune", {"granularity": "block", "ratio": 0.34, "block_importance": "influence"})
    ],
    "depth 4 of 6, loss": [
        ("prune", {"granularity": "block", "ratio": 0.34, "block_importance": "loss"})
    ],
    "width 75 %, l2": [("prune", {"ratio": 0.25, "criterion": "l2", "reconstruct": "none"})],
    "width 75 %, activation": [("prune", {"ratio": 0.25, "criterion": "activation", "reconstruct": "none"})],
    "width 75 %, wanda": [("prune", {"ratio": 0.25, "criterion": "wanda", "reconstruct": "none"})],
    "width 75 %, wanda, refitted": [("prune", {"ratio": 0.25, "criterion": "wanda", "reconstruct": "inputs"})],
}  # fmt: skip
PEER = ["W4 g64 rtn", "W4 g64 gptq", "W3 g64 gptq", "W2 g64 gptq", "W8A8 dynamic", "2:4 wanda", "2:4 sparsegpt",
        "50 % wanda", "50 % sparsegpt"]  # fmt: skip


def blocks(folder: Path) -> None:
    """Write the blocks that all rows share."""
    import torch
    from safetensors.torch import save_file

    data = opened()
    calibrating = torch.cat([inputs["input_ids"] for inputs in data.calibration(CALIBRATION)])
    tested = [inputs["input_ids"] for inputs, _ in data.batches("test", batch_size=64, limit=TESTED)]
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"calibration": calibrating, "test": torch.cat(tested)}, folder / "blocks.safetensors")
    print(calibrating.shape, torch.cat(tested).shape)


def opened() -> Any:
    """The text as tinylm takes it."""
    from compresskit.data.dataset import open_data
    from compresskit.model.text_inputs import TextInputs

    model = TextInputs("causal", str(MODEL), 512, 2048)
    return open_data(f"text:{TEXT}", args={"length": LENGTH}, text_inputs=model)


def perplexity(module: Any, rows: Any) -> float:
    """Of a model on blocks, the same for both."""
    import torch

    total = count = 0.0
    with torch.no_grad():
        for part in rows.split(20):
            logits = module(input_ids=part, use_cache=False).logits[:, :-1].float()
            wanted = part[:, 1:].flatten()
            total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum"))
            count += part[:, 1:].numel()
    return math.exp(total / count)


def ours(row: str, rows: dict[str, Any]) -> tuple[Any, float, int]:
    """The module, CPU seconds, peak bytes above the loaded model."""
    from compresskit.artifact.source import load_model
    from compresskit.evaluation.losses import make_loss
    from compresskit.pipeline.techniques import TECHNIQUES
    from compresskit.training.context import Context

    loaded = load_model(f"hf:{MODEL}")
    data = opened()
    start, peak, begun = resident()[0], Peak(), time.process_time()
    for technique, options in OURS[row]:
        entry = TECHNIQUES[technique]
        samples = {"calibration_samples": CALIBRATION} if technique == "quantize" else {"samples": CALIBRATION}
        try:
            chosen = entry.options_model()(**samples, **options)
        except ValueError:  # what reads no data takes no samples
            chosen = entry.options_model()(**options)
        context = Context(loaded.clone(), data=data, loss=make_loss("ce"), eval_batch=20)
        loaded = entry.function()(loaded, chosen, context).loaded
    return loaded.module, time.process_time() - begun, peak.stop()[0] - start


def peer(row: str, rows: dict[str, Any]) -> tuple[Any, float, int]:
    """The same of llm-compressor."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": rows["calibration"].tolist(),
                              "attention_mask": torch.ones_like(rows["calibration"]).tolist()})  # fmt: skip
    start, peak, begun = resident()[0], Peak(), time.process_time()
    oneshot(model=model, dataset=data, recipe=modifiers(row), max_seq_length=LENGTH,
            num_calibration_samples=CALIBRATION)  # fmt: skip
    return model, time.process_time() - begun, peak.stop()[0] - start


def modifiers(row: str) -> list[Any]:
    """llm-compressor's recipe for a row."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.awq import AWQModifier
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
    from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    common: dict[str, Any] = {"ignore": ["lm_head"]}
    if row.startswith("W8A8"):
        return [GPTQModifier(targets="Linear", scheme="W8A8", **common)]
    if row.startswith("W"):
        weights = QuantizationArgs(num_bits=int(row[1]), symmetric=True, strategy="group", group_size=64)
        common["config_groups"] = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
        return [{"rtn": QuantizationModifier, "gptq": GPTQModifier, "awq": AWQModifier}[row.split()[-1]](**common)]
    made = WandaPruningModifier if "wanda" in row else SparseGPTModifier
    structure = {"mask_structure": "2:4"} if row.startswith("2:4") else {}
    return [made(sparsity=0.5, targets=["re:.*proj$"], **structure)]  # a tied head is not ignored


def run(which: str, folder: Path, row: str) -> None:
    """One row, in this process."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    rows = load_file(folder / "blocks.safetensors")
    module, seconds, peak_bytes = {"ours": ours, "peer": peer}[which](row, rows)
    found = perplexity(module.eval(), rows["test"])
    parameters = sum(one.numel() for one in module.parameters())
    zeros = {}
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            weights = zeros.setdefault(name == "lm_head", [0, 0])
            weights[0] += int((layer.weight == 0).sum())
            weights[1] += layer.weight.numel()
    shares = {("head" if head else "layers"): f"{count / total:.3f}" for head, (count, total) in zeros.items()}
    print(f"{row}, {which}: {parameters} parameters, zeros {shares}", file=sys.stderr)
    print(json.dumps({"ppl": found, "s": seconds, "mb": peak_bytes / 1e6}))


def main() -> None:
    which, folder, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if which == "blocks":
        blocks(folder)
        return
    if which.startswith("run-"):
        run(which.removeprefix("run-"), folder, rest[0])
        return
    python = sys.executable
    if which == "peer":
        python, *rest = rest
    for row in rest or (OURS if which == "ours" else PEER):
        done = subprocess.run([python, __file__, f"run-{which}", str(folder), row], capture_output=True, text=True)
        if done.returncode:
            print(f"| {row} | {which} | failed: {done.stderr.strip().splitlines()[-1][:300]} | | |", flush=True)
            continue
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"| {row} | {which} | {found['ppl']:.3f} | {found['s']:.1f} | {found['mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
