"""Which transformers families leave every technique as a folder that `from_pretrained` loads with equal logits.

    python ../shared/cases/hf_folders.py /tmp/hf
    python benchmarks/language/hf_folders.py --folders /tmp/hf --out benchmarks/results/families_hf.md

Each folder holds a small model with random weights. For each technique the model is changed in this process, written
as a transformers folder, and all folders of a family are loaded in one fresh process that imports torch and
transformers alone. A cell is the largest difference of the logits relative to the largest logit; `gen` says that the
greedy continuation with the cache there is that of our model without one; or the reason of a refusal. A row is written
as it finishes, so that a run that is cut off keeps what it measured, and a run goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from compresskit.artifact.source import load_model
from compresskit.core.errors import CompresskitError
from compresskit.core.types import Loaded, call, main_output
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.export.exporters.hugging_face.hf import plain_module
from compresskit.export.folders.proof import named_inputs, own_output, prove
from compresskit.export.options import ExportOptions
from compresskit.export.tables import EXPORTERS
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

NEW_TOKENS = 4
Technique = Callable[[Loaded], Any]


def width(loaded: Loaded) -> None:
    prune(loaded, PruneOptions(target_macs=0.5), Context(loaded.clone()))


def depth(loaded: Loaded) -> None:
    prune(loaded, PruneOptions(granularity="block", ratio=0.25), Context(loaded.clone()))


def int4(loaded: Loaded) -> None:
    quantize(loaded, QuantizeOptions(scheme="int4-weight"), Context(loaded.clone()))


def svd(loaded: Loaded) -> None:
    options = DecomposeOptions(rank_by="keep-ratio", keep_ratio=0.5, slower_layers="allow")
    decompose(loaded, options, Context(loaded.clone()))


#: column -> what is done, and how the folder is written
COLUMNS: dict[str, tuple[Technique, dict[str, Any]]] = {
    "width": (width, {"format": "hf"}),
    "depth": (depth, {"format": "hf"}),
    "int4": (int4, {"format": "hf"}),
    "int4 packed": (int4, {"format": "compressed-tensors"}),
    "svd": (svd, {"format": "hf"}),
    "svd merged": (svd, {"format": "hf", "factored": "merge"}),
}


def greedy(loaded: Loaded, count: int) -> torch.Tensor | None:
    """A greedy continuation without a cache, of models that read ids alone and answer with logits a position."""
    if not isinstance(loaded.example, dict) or set(loaded.example) - {"input_ids", "attention_mask"}:
        return None
    if getattr(loaded.module.config, "is_encoder_decoder", False):
        return None
    ids, module = loaded.example["input_ids"], loaded.module
    with torch.no_grad():
        for _ in range(count):
            logits = main_output(call(module, {"input_ids": ids}))
            if logits.dim() != 3:
                return None
            logits[:, -1, end_ids(module)] = -torch.inf  # as min_new_tokens does
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids


def end_ids(module: torch.nn.Module) -> list[int]:
    found = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    return [] if found is None else list(found) if isinstance(found, list) else [found]


def merged(loaded: Loaded, options: ExportOptions) -> Loaded:
    """The model with its factors multiplied out, as it is written."""
    return replace(loaded, module=plain_module(loaded.clone(), options)[0])


def row_of(model: str, scratch: Path, columns: list[str]) -> dict[str, str]:
    """The cells of one family."""
    row: dict[str, str] = {}
    jobs, wanted, own = [], [], {}
    for column in columns:
        technique, given = COLUMNS[column]
        try:
            if given["format"] not in EXPORTERS:
                continue
            loaded = load_model(model)
            before = sum(parameter.numel() for parameter in loaded.module.parameters())
            technique(loaded)
            folder = scratch / column.replace(" ", "-")
            folder.mkdir()
            EXPORTERS.load(given["format"])(loaded, folder, ExportOptions(**given))
            written = loaded if "factored" not in given else merged(loaded, ExportOptions(**given))
            output = own_output(written)
            job = (folder, named_inputs(loaded), output)
            rounding = float((output - own_output(loaded)).abs().max() / output.abs().max())
            share = sum(p.numel() for p in loaded.module.parameters()) / before
            own[column] = (greedy(written, NEW_TOKENS), share, rounding)
            jobs.append(job)
            wanted.append(column)
        except CompresskitError as error:
            row[column] = f"refused: {' '.join(str(error).split())}"
        except Exception as error:
            row[column] = f"CRASH: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    for column, proof in zip(wanted, prove(jobs, new_tokens=NEW_TOKENS), strict=True):
        ids, share, rounding = own[column]
        if proof.error:  # the export command proves what it writes, and refuses it then
            row[column] = f"refused: transformers does not load it: {proof.error}"
            continue
        gen = "" if proof.generated is None else ", gen runs"
        if proof.generate_error:
            gen = f", no gen: {proof.generate_error}"
        if proof.generated is not None and ids is not None:
            gen = ", gen" if torch.equal(proof.generated, ids) else ", GEN DIFFERS"
        kept = f" ({share:.2f})" if column in ("width", "depth") else ""
        merging = f" (merging {rounding:.0e})" if rounding > 1e-4 else ""
        row[column] = f"{proof.difference / (proof.scale or 1):.0e}{kept}{merging}{gen}"
    return {column: row[column] for column in columns if column in row}


def as_markdown(rows: dict[str, dict[str, str]], command: str) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "compressed-tensors"))
    cells = [cell for row in rows.values() for cell in row.values()]
    refused = sum(cell.startswith("refused") for cell in cells)
    bad = sum(cell.startswith(("FAIL", "CRASH")) or "DIFFERS" in cell for cell in cells)
    lines = [
        "# Families: a transformers folder in, a transformers folder out", "",
        f"`{command}`. {versions}. CPU seconds are in each row's last column.", "",
        "Random weights, no data. width: `prune --target-macs 0.5`; depth: `--granularity block --ratio 0.25`; int4: "
        "`quantize --scheme int4-weight`; svd: `decompose --rank-by keep-ratio --slower-layers allow`; then "
        "`export --format hf` (`int4 packed`: `--format compressed-tensors`; `svd merged`: `--factored merge`). A cell "
        "is the largest difference of the logits in a fresh process, relative to the largest, the share of parameters "
        "kept in brackets, and `gen` where `generate` with its cache continues as our model without one (`gen runs`: "
        "it runs; encoder-decoders and audio were not compared; `no gen`: it fails there). Merged factors are compared "
        "with our merged model; `merging` is what multiplying out changes of the factored one in 16 bits.", "",
        f"{len(cells) - refused - bad} cells are equal, {refused} refused with a reason, {bad} fail.", "",
        f"| family | {' | '.join(COLUMNS)} | CPU s |", f"| --- |{' --- |' * (len(COLUMNS) + 1)}",
    ]  # fmt: skip
    reasons = []
    for name, row in rows.items():
        shown = [row.get(column, "").split(":")[0] for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(shown)} | {row.get('seconds', '')} |")
        reasons += [f"- {name}, {c}: {cell}" for c, cell in row.items() if cell.startswith(("ref", "FAIL", "CRASH"))]
    return "\n".join([*lines, "", "## Reasons", "", *reasons, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="folders to run again; without a name, those that have no row yet")
    parser.add_argument("--folders", type=Path, default=Path("/tmp/hf"), help="where hf_folders.py wrote")
    parser.add_argument("--out", type=Path, help="markdown file; a .json of the rows lies beside it")
    parser.add_argument("--columns", nargs="*", default=list(COLUMNS), help="columns to run")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    kept = options.out.with_suffix(".json") if options.out else None
    rows: dict[str, dict[str, str]] = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    for folder in sorted(options.folders.iterdir()):
        name = folder.name
        if not (folder / "config.json").is_file() or (name not in options.names if options.names else name in rows):
            continue
        started = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            found = row_of(f"hf:{folder}", Path(scratch), options.columns)
        found["seconds"] = f"{time.process_time() - started:.0f}"
        rows[name] = {**rows.get(name, {}), **found}
        print(name, json.dumps(found), flush=True)
        if options.out and kept:
            rows = dict(sorted(rows.items()))
            kept.write_text(json.dumps(rows, indent=1))
            command = f"python benchmarks/language/hf_folders.py --folders {options.folders}"
            options.out.write_text(as_markdown(rows, command))


if __name__ == "__main__":
    main()
