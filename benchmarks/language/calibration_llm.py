"""GPTQ with groups of 128 on Llamas of random bf16 weights: CPU time, and peak memory above what the imports take.

    python benchmarks/language/calibration_llm.py 50|300|1000 [--peer PYTHON]  # an environment that has llm-compressor
    python benchmarks/language/calibration_llm.py run ours|peer FOLDER     # one of them, in a process of its own

A line: who, parameters, peak bytes a parameter (all; without pages of files), CPU seconds of loading and of the work.
All linear layers but lm_head are rounded to 4 bits (symmetric, groups of 128) from the same 64 sequences of 128 tokens
(SEQUENCES=N takes N of them).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SEQUENCES, TOKENS, BATCH = int(os.environ.get("SEQUENCES", 64)), 128, 8
SIZES = {
    "50": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408,
           "vocab_size": 24_000},
    "300": {"hidden_size": 1024, "num_hidden_layers": 18, "num_attention_heads": 16, "intermediate_size": 2816,
            "vocab_size": 32_000},
    "1000": {"hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 32, "intermediate_size": 5632,
             "vocab_size": 32_000},
}  # fmt: skip


def make(folder: Path, size: str) -> int:
    """A Llama in a folder, in shards; its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(num_key_value_heads=SIZES[size]["num_attention_heads"], tie_word_embeddings=False,
                         max_position_embeddings=512, **SIZES[size])  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="50MB")
    return sum(one.numel() for one in model.parameters())


def tokens(vocabulary: int):
    import torch

    return torch.randint(0, vocabulary, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(0))


def resident() -> tuple[int, int]:
    """Bytes in memory: (all, those that are no pages of files)."""
    found = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "kB" in line)
    whole, anonymous = (int(found[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
    return whole, anonymous


class Peak:
    """The largest memory while it runs, looked at every 5 ms."""

    def __init__(self):
        self.largest, self._running = resident(), True
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        while self._running:
            self.largest = tuple(map(max, self.largest, resident()))
            time.sleep(0.005)

    def stop(self) -> tuple[int, int]:
        self._running = False
        self._thread.join()
        return self.largest


def ours(folder: Path):
    from compresskit.artifact.source import load_model
    from compresskit.quantization.options import QuantizeOptions
    from compresskit.quantization.quantize import quantize
    from compresskit.training.context import Context

    class Data:
        def size(self, split, at_most=None):
            return min(SEQUENCES, at_most or SEQUENCES)

        def calibration(self, samples, *, batch_size=64, seed=0):
            rows = tokens(loaded.module.config.vocab_size)
            return [{"input_ids": part} for part in rows.split(batch_size)]

    start, peak, begun = resident(), Peak(), time.process_time()
    loaded = load_model(f"hf:{folder}")
    loaded_at = time.process_time()
    options = QuantizeOptions(scheme="int4-weight", rounding="gptq", granularity="group", group_size=128,
                              first_last="same", skip=["lm_head", "*embed_tokens"], weight_search="minmax",
                              calibration_samples=SEQUENCES, calibration_batch=BATCH)  # fmt: skip
    quantize(loaded, options, Context(loaded, data=Data()))
    return start, peak.stop(), loaded_at - begun, time.process_time() - loaded_at


def peer(folder: Path):
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    start, peak, begun = resident(), Peak(), time.process_time()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    loaded_at = time.process_time()
    rows = tokens(model.config.vocab_size)
    data = Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()})
    oneshot(model=model, dataset=data, recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
            processor=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a"))),
            max_seq_length=TOKENS, num_calibration_samples=SEQUENCES)  # fmt: skip
    return start, peak.stop(), loaded_at - begun, time.process_time() - loaded_at


def run(which: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    if which == "ours":
        import transformers.models.llama.modeling_llama

        import compresskit.quantization.quantize  # noqa: F401  # what is imported counts as there before
    else:
        import llmcompressor  # noqa: F401
        import transformers.models.llama.modeling_llama  # noqa: F401
    start, largest, load_s, work_s = {"ours": ours, "peer": peer}[which](folder)
    above = [one - other for one, other in zip(largest, start, strict=True)]
    print(json.dumps({"above": above, "load_s": load_s, "work_s": work_s}))


def main() -> None:
    if sys.argv[1] == "run":
        run(sys.argv[2], Path(sys.argv[3]))
        return
    if sys.argv[1] == "make":
        print(make(Path(sys.argv[2]), sys.argv[3]))
        return
    size = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            [sys.executable, __file__, "make", folder, size], check=True, capture_output=True, text=True
        )
        parameters = int(made.stdout.split()[-1])
        pythons = {"ours": sys.executable}
        if "--peer" in sys.argv:
            pythons["peer"] = sys.argv[sys.argv.index("--peer") + 1]
        for which, python in pythons.items():
            done = subprocess.run([python, __file__, "run", which, folder], capture_output=True, text=True,
                                  env=os.environ)  # fmt: skip
            if done.returncode:
                print(which, done.stderr[-1500:])
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            each = [f"{one / parameters:.1f}" for one in found["above"]]
            print(f"| {which} | {parameters / 1e6:.0f} M | {each[0]} | {each[1]} | {found['load_s']:.1f} "
                  f"| {found['work_s']:.1f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
