"""Loads transformers folders with nothing of this package around, and writes what they compute. Run as a script.

    python fresh_process.py JOBS

JOBS is a JSON file: a list of {folder, inputs, outputs, generate}; `inputs` is a safetensors file of keyword tensors,
to `outputs` goes the first output in float32, and the ids of a greedy continuation where `generate` says how long. One
line a job on stdout, RESULT and JSON: {"error": ...} or {"class": ..., "dtype": ..., "generate_error": ...}.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def auto_class(config: Any) -> Any:
    """The AutoModel class that stands for the model class which a configuration names."""
    import transformers

    wanted = (config.architectures or [""])[0]
    for name in sorted(dir(transformers)):
        found = getattr(transformers, name) if name.startswith("AutoModel") else None
        mapping = getattr(found, "_model_mapping", None)
        if mapping is None or type(config) not in mapping:
            continue
        named = mapping[type(config)]
        if wanted in [one.__name__ for one in (named if isinstance(named, tuple | list) else [named])]:
            return found
    return getattr(transformers, wanted, transformers.AutoModel)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Load one folder, run it on its inputs, and write what it gives."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    config = transformers.AutoConfig.from_pretrained(job["folder"])
    loader = auto_class(config)
    model, info = loader.from_pretrained(job["folder"], output_loading_info=True)
    model.eval()
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        raise ValueError(f"tensors missing or of another shape: {(missing or sorted(info['mismatched_keys']))[:3]}")
    inputs = load_file(job["inputs"])
    floats = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    inputs = {name: value.to(floats) if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
    found, failed = {"output": first_tensor(output).float().contiguous()}, ""
    if job.get("generate") and hasattr(model, "can_generate") and model.can_generate():
        try:
            found["ids"] = continuation(model, inputs, job["generate"])
        except Exception as error:  # the library's own
            failed = shown(error)
    save_file(found, job["outputs"])
    return {"class": loader.__name__, "dtype": str(floats).removeprefix("torch."), "generate_error": failed}


def continuation(model: Any, inputs: dict[str, Any], length: int) -> Any:
    """Ids of a greedy continuation."""
    import torch

    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=length, min_new_tokens=length, do_sample=False)
    return ids.contiguous()


def shown(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def first_tensor(output: Any) -> Any:
    """The logits, or the first tensor there is."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), torch.Tensor):
            return getattr(output, name)
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    return next(value for value in values if isinstance(value, torch.Tensor))


def main() -> None:
    """Run every job of the file that is named."""
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        try:
            found = run(job)
        except Exception as error:  # the library's own
            found = {"error": shown(error)}
        print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
