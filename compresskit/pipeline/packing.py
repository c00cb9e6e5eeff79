"""One folder that leaves: an ONNX file, a script that needs the runtime alone, a check, a README, requirements."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..artifact.disk import files, ownership
from ..core.errors import InputError
from ..core.types import Inputs, Loaded, call
from ..export.exporters.output_names import named_tensors
from ..export.handover.runner_script import requirements, write_runner
from ..export.lowering import carry_out
from ..export.opening import is_file, open_file
from ..export.options import ExportOptions
from ..model.example_inputs import with_batch
from .checks.preflight import checked_export
from .recipe import RecipeOptions
from .resume.fingerprints import named_paths

_FILE, _CHECK = "model.onnx", "check.npz"
#: largest difference on another machine, of the largest output: integer kernels may round differently there
_TOLERANCE = 0.02

_RUN = '''"""Run the model of this folder: `python run.py {usage}`; `python run.py --check` proves that it works."""
import runpy
import sys
from pathlib import Path

here = Path(__file__).parent


def check():
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
    kept = np.load(here / "check.npz")
    found = session.run(None, {{entry.name: kept["input:" + entry.name] for entry in session.get_inputs()}})
    worst = 0.0
    for entry, array in zip(session.get_outputs(), found):
        wanted = kept["output:" + entry.name].astype(np.float64)
        if array.shape != wanted.shape:
            sys.exit(f"FAILED: {{entry.name}} has shape {{array.shape}}, expected {{wanted.shape}}")
        gap = float(np.abs(array - wanted).max(initial=0)) / max(float(np.abs(wanted).max(initial=0)), 1e-12)
        worst = max(worst, gap)
    if not worst <= {tolerance}:
        sys.exit(f"FAILED: outputs differ by {{worst:.2%}} of the largest, more than {tolerance:.0%}")
    print(f"OK: {{len(found)}} outputs within {{worst:.4%}} of the largest value")


if "--check" in sys.argv[1:]:
    check()
else:
    runpy.run_path(str(here / "model.py"), run_name="__main__")
'''


def pack(
    recipe: RecipeOptions,
    options: ExportOptions,
    output: str,
    *,
    force: bool,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a folder that runs in an environment with the runtime and NumPy (Pillow or tokenizers where it needs them).

    Args:
        recipe: names the model, or an .onnx file of ours; data and metric where there are any.
        options: of the export to ONNX.
        output: the folder to write.
        force: replace a folder of ours that is there.
        log: prints a line of progress.
    Returns:
        model, path, the names of the files, requirements, and the figures of the export where there was one.
    Raises:
        InputError: if something else is there, or the model cannot be exported.
    """
    target = ownership.absolute(output)
    if os.path.lexists(target):
        if not force:
            raise InputError(f"output {output!r} exists; give --force to replace it")
        ownership.check_replaceable(target, named_paths(recipe.model_dump()))
    context = None
    if is_file(recipe.model):
        loaded = _opened(recipe)
    else:
        context = checked_export(recipe, options, target, log)
        loaded = context.original
    with files.replacing(target, force=force) as folder:
        ownership.write_marker(folder, target)
        path = folder / _FILE
        if context is None:
            facts, meta = _copied(recipe.model, loaded, path)
        else:
            facts = carry_out(loaded, options, context, path).facts
            meta = getattr(open_file(str(path)).module, "about", {})
        needs = _pinned(requirements(meta, tokenizer=(folder / "model.tokenizer.json").is_file()))
        (folder / "requirements.txt").write_text("\n".join(needs) + "\n", encoding="utf-8")
        usage = "photo.jpg" if meta.get("preprocessing") else '"A sentence."' if meta.get("text") else "inputs.npz"
        (folder / "run.py").write_text(
            _RUN.format(usage=usage.replace('"', "'"), tolerance=_TOLERANCE), encoding="utf-8"
        )
        _write_check(open_file(str(path), inputs=list(recipe.input) or None), folder / _CHECK)
        _write_readme(folder, usage)
        names = sorted(entry.name for entry in folder.iterdir() if entry.name != ownership.MARKER)
    return {"model": recipe.model, "path": output, "files": names, "requirements": needs, "figures": facts}


def _opened(recipe: RecipeOptions) -> Loaded:
    if Path(recipe.model).suffix != ".onnx":
        raise InputError(f"model {recipe.model!r}: pack takes .onnx files, artifacts and model strings")
    return open_file(recipe.model, inputs=list(recipe.input) or None)


def _copied(model: str, loaded: Loaded, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copy an ONNX file that is there already, and write its script."""
    source = Path(model)
    shutil.copyfile(source, path)
    weights = source.with_name(f"{source.name}.data")
    if weights.exists():  # the file names it
        shutil.copyfile(weights, path.with_name(weights.name))
    about: dict[str, Any] = dict(getattr(loaded.module, "about", {}))
    meta = {"model": source.name, "compresskit": "", "weights_sha256": "unknown", **about}
    tokenizer = source.with_name(f"{source.stem}.tokenizer.json")
    write_runner(path.parent, path.name, meta, tokenizer=tokenizer if tokenizer.is_file() else None)
    return {}, meta


def _pinned(packages: tuple[str, ...]) -> list[str]:
    """The runtime in the version that the check was made with; other packages in any."""
    try:
        runtime = f"onnxruntime=={version('onnxruntime')}"
    except PackageNotFoundError:  # onnxruntime-gpu and its like
        runtime = "onnxruntime"
    return [runtime if name == "onnxruntime" else name for name in packages]


@torch.no_grad()
def _write_check(loaded: Loaded, path: Path) -> None:
    """A sample input and what the file computes of it here."""
    session: Any = loaded.module
    inputs: Inputs = with_batch(loaded.example, 1)
    outputs = list(named_tensors(call(session, inputs)).values())
    names = [spec.name for spec in session.specs]
    given = dict(zip(names, [inputs] if isinstance(inputs, torch.Tensor) else list(_leaves(inputs)), strict=True))
    arrays: dict[str, Any] = {f"input:{name}": tensor.numpy() for name, tensor in given.items()}
    results = [entry.name for entry in session.session.get_outputs()]
    arrays |= {f"output:{name}": tensor.numpy() for name, tensor in zip(results, outputs, strict=True)}
    np.savez_compressed(path, **arrays)


def _leaves(inputs: Any) -> list[torch.Tensor]:
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


def _write_readme(folder: Path, usage: str) -> None:
    """The README of the file, with the folder's own commands."""
    written = folder / "model.md"
    text = written.read_text(encoding="utf-8").partition("```")[2].partition("```")[2].strip()
    commands = ["pip install -r requirements.txt", "python run.py --check", f"python run.py {usage}"]
    lines = [
        "# A packed model", "", "```", *commands, "```", "",
        "`model.onnx` is the model, `model.py` the script that runs it, `check.npz` an input and its output.",
        "",
    ]  # fmt: skip
    (folder / "README.md").write_text("\n".join([*lines, text, ""]), encoding="utf-8")
    written.unlink()
