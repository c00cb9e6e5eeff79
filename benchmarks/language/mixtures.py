"""Perplexity of a small mixture of experts after each method. It is made of tinylm, and trained for STEPS steps.

    python benchmarks/language/mixtures.py make FOLDER                 # the mixture, from tinylm
    python benchmarks/language/mixtures.py rows FOLDER [ROW ...]       # rows of ROWS, a line of markdown each

Each layer's 512 inner units become four experts of 256, every unit in two of them; a router takes two experts a token.
Blocks of 128 tokens: training blocks of train, 128 for calibration, 200 of test, spread over it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from language_models import CALIBRATION, LENGTH, MODEL, TESTED, opened, perplexity

STEPS, BATCH = 200, 16
_GROUPS = {"granularity": "group", "group_size": 64, "reconstruct": "none"}
_CUT = {"reconstruct": "none"}
#: row -> (technique, options)
ROWS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "float": None,
    "W4 g64, nearest": ("quantize", {"scheme": "int4-weight", **_GROUPS}),
    "W4 g64, GPTQ by routed tokens": ("quantize", {"scheme": "int4-weight", "rounding": "gptq", **_GROUPS}),
    "W3 g64, nearest": ("quantize", {"scheme": "int3-weight", **_GROUPS}),
    "W3 g64, GPTQ by routed tokens": ("quantize", {"scheme": "int3-weight", "rounding": "gptq", **_GROUPS}),
    "3 of 4 experts, by output": ("prune", {"granularity": "expert", "ratio": 0.25}),
    "3 of 4 experts, reap": ("prune", {"granularity": "expert", "ratio": 0.25, "expert_importance": "reap"}),
    "3 of 4 experts, by frequency": (
        "prune", {"granularity": "expert", "ratio": 0.25, "expert_importance": "frequency"},
    ),
    "experts' width 75 %": (
        "prune", {"ratio": 0.25, "protect": ["model.embed_tokens", "*self_attn*"], **_CUT},
    ),
}  # fmt: skip


def make(folder: Path) -> None:
    """Write the mixture."""
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    dense = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    settings = {
        key: value
        for key, value in dense.config.to_dict().items()
        if key not in ("architectures", "model_type", "attention_bias", "mlp_bias", "pretraining_tp")
    }
    own = {"intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}
    model = MixtralForCausalLM(MixtralConfig(**{**settings, **own, "output_router_logits": True}))
    missing = model.load_state_dict(dense.state_dict(), strict=False).missing_keys
    assert all("mlp" in name for name in missing), missing
    quarters = torch.arange(512).chunk(4)
    with torch.no_grad():
        for layer, source in zip(model.model.layers, dense.model.layers, strict=True):
            for number, (one, other) in enumerate([(0, 1), (2, 3), (0, 2), (1, 3)]):
                units = torch.cat([quarters[one], quarters[other]])
                experts, mlp = layer.mlp.experts, source.mlp
                experts.gate_up_proj[number] = torch.cat([mlp.gate_proj.weight[units], mlp.up_proj.weight[units]])
                experts.down_proj[number] = 2 * mlp.down_proj.weight[:, units]
    data = opened()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.0)
    model.train()
    batches = data.batches("train", batch_size=BATCH, shuffle=True, seed=0, limit=STEPS * BATCH)
    for step, (inputs, _) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        found = model(**inputs, labels=inputs["input_ids"])
        optimizer.zero_grad()
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            print(step, f"{float(found.loss):.3f}", file=sys.stderr, flush=True)
    model.config.output_router_logits = False
    model.eval().save_pretrained(folder)


def rows(folder: Path, names: list[str]) -> None:
    """Print rows."""
    from compresskit.artifact.source import load_model
    from compresskit.evaluation.losses import make_loss
    from compresskit.pipeline.techniques import TECHNIQUES
    from compresskit.training.context import Context

    data = opened()
    tested = torch.cat([inputs["input_ids"] for inputs, _ in data.batches("test", batch_size=64, limit=TESTED)])
    for name in names or ROWS:
        loaded = load_model(f"hf:{folder}", inputs=[f"input_ids={LENGTH}:int64:2048"])
        seconds, chosen = 0.0, ROWS[name]
        if chosen is not None:
            technique, options = chosen
            entry = TECHNIQUES[technique]
            reads = technique == "prune" or options.get("rounding") == "gptq"
            key = "calibration_samples" if technique == "quantize" else "samples"
            made = entry.options_model()(**options, **({key: CALIBRATION} if reads else {}))
            begun = time.process_time()
            context = Context(loaded.clone(), data=data, loss=make_loss("ce"), eval_batch=20)
            loaded = entry.function()(loaded, made, context).loaded
            seconds = time.process_time() - begun
        tensors = {one.data_ptr(): one for one in loaded.module.state_dict().values()}  # tied ones once
        size = sum(one.numel() * one.element_size() for one in tensors.values())
        found = perplexity(loaded.module.eval(), tested)
        print(f"| {name} | {found:.3f} | {size / 1e6:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        rows(Path(sys.argv[2]), sys.argv[3:])
