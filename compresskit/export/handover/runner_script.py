"""A script and a README beside an exported file: whoever gets the folder runs it with the runtime and NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import InputError, require

#: the companion file of a model that the script of a text model reads
TOKENIZER = "tokenizer.json"

_HEAD = '''"""Run {model} on {what}; needs {needs}."""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
{imports}
here = Path(__file__).parent
session = onnxruntime.InferenceSession(str(here / "{model}"), providers=["CPUExecutionProvider"])
'''

_IMAGE = """about, first = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0]
wanted, labels = json.loads(about["preprocessing"]), json.loads(about.get("labels", "[]"))

for path in sys.argv[1:]:
    image = Image.open(path).convert("L" if wanted["order"] == "gray" else "RGB")
    height, width = wanted["size"]
    pixels = np.atleast_3d(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)))
    if first.type != "tensor(uint8)":  # else the graph does the rest itself
        pixels = pixels[..., ::-1] if wanted["order"] == "bgr" else pixels
        pixels = ((pixels / 255 - wanted["mean"]) / wanted["std"]).astype(np.float32).transpose(2, 0, 1)
    outputs = session.run(None, {first.name: pixels[None]})
    if outputs[0].ndim == 2:  # scores of classes
        scores = outputs[0][0]
        if scores.min() < 0 or abs(scores.sum() - 1) > 1e-3:  # else the model's own shares
            scores = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        best = int(scores.argmax())
        print(f"{path}: {labels[best] if labels else best} ({scores[best]:.1%})")
    else:
        print(f"{path}:", {entry.name: array.shape for entry, array in zip(session.get_outputs(), outputs)})
"""

_TEXT = """about, first = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0]
tokenizer, labels = Tokenizer.from_file(str(here / "{tokenizer}")), json.loads(about.get("labels", "[]"))
reads = json.loads(about["text"])
length = first.shape[1] if isinstance(first.shape[1], int) else None


def run(ids):
    filled = ids[:length] + [0] * ((length or len(ids)) - len(ids))
    feed = {{entry.name: np.zeros((1, len(filled)), np.int64) for entry in session.get_inputs()}}
    feed[first.name][:] = filled
    if "attention_mask" in feed:
        feed["attention_mask"][:, : len(ids)] = 1
    return session.run(None, feed)[0]


for text in sys.argv[1:]:
    ids = tokenizer.encode(text).ids
    if reads["kind"] == "causal":  # the likeliest next tokens
        for _ in range(20):
            if len(ids) < (length or reads["max_length"] or 512):
                ids.append(int(run(ids)[0, len(ids) - 1].argmax()))
        print(tokenizer.decode(ids))
        continue
    output = run(ids)
    best = int(output[0].argmax())
    print(f"{{text}}: {{labels[best] if labels else best}}" if output.ndim == 2 else f"{{text}}: {{output.shape}}")
"""

_ARRAYS = """labels = json.loads(session.get_modelmeta().custom_metadata_map.get("labels", "[]"))
given = np.load(sys.argv[1]) if len(sys.argv) > 1 else {}  # an .npz with an array for each input
kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
feed = {}
for entry in session.get_inputs():
    shape = [size if isinstance(size, int) else 1 for size in entry.shape]
    feed[entry.name] = given[entry.name] if entry.name in given else np.zeros(shape, kinds.get(entry.type, np.float32))
for entry, array in zip(session.get_outputs(), session.run(None, feed)):
    print(entry.name, array.shape, array.reshape(-1)[:10])
    if labels and array.ndim == 2 and array.shape[1] == len(labels):  # scores of classes
        print(*(labels[best] for best in array.argmax(1)), sep=", ")
"""


_INSIDE = " The graph does that itself: it takes bytes, (batch, height, width, channels)."


class _Kind(NamedTuple):
    """A script's body, and what it is for."""

    body: str
    what: str
    needs: tuple[str, ...]
    imports: str
    usage: str


_KINDS = {
    "image": _Kind(_IMAGE, "images", ("onnxruntime", "numpy", "pillow"), "from PIL import Image\n", "photo.jpg"),
    "text": _Kind(
        _TEXT, "sentences", ("onnxruntime", "numpy", "tokenizers"), "from tokenizers import Tokenizer\n",
        '"A sentence to read."',
    ),
    "arrays": _Kind(_ARRAYS, "arrays", ("onnxruntime", "numpy"), "", "inputs.npz"),
}  # fmt: skip


def beside(model_file: str, *, tokenizer: bool = False, labels: bool = False) -> list[str]:
    """Names of the files that `write_runner` writes beside a model's."""
    stem = Path(model_file).stem
    further = {f"{stem}.tokenizer.json": tokenizer, f"{stem}.labels.txt": labels}
    return [f"{stem}.py", f"{stem}.md", *(name for name, is_written in further.items() if is_written)]


def write_runner(
    folder: Path, model_file: str, meta: Mapping[str, Any], *, tokenizer: Path | None = None
) -> list[Path]:
    """Write NAME.py, which runs an ONNX file, and NAME.md, which says what it is, beside the file.

    Names of classes, where they are known, are laid beside them, too: NAME.labels.txt, one a line.

    Args:
        folder: where the model's file lies, or will.
        model_file: its name, e.g. `model.onnx`.
        meta: what `description.description` returns; the file itself holds the same. `figures` in it, a mapping of
            names to figures, go into the README.
        tokenizer: a tokenizer.json to lay beside them, for models of text.
    Returns:
        the files written.
    Raises:
        InputError: if the file would be overwritten by its own script.
    """
    if Path(model_file).suffix in (".py", ".md"):
        raise InputError(f"file {model_file!r}: its script takes that name; give it another suffix, e.g. .onnx")
    kind = _kind(meta, tokenizer)
    meta = {**meta, "interface": _interface(folder / model_file)}
    names = beside(model_file, tokenizer=kind is _KINDS["text"])
    head = _HEAD.format(
        model=model_file,
        what=kind.what,
        needs=", ".join(kind.needs),
        imports=kind.imports,
    )
    body = kind.body.format(tokenizer=names[-1]) if kind is _KINDS["text"] else kind.body
    written = [folder / name for name in names]
    written[0].write_text(head + body, encoding="utf-8")
    written[1].write_text(readme(model_file, meta, kind), encoding="utf-8")
    if kind is _KINDS["text"] and tokenizer is not None:
        written[2].write_bytes(tokenizer.read_bytes())
    if labels := meta.get("labels"):
        written.append(folder / beside(model_file, labels=True)[-1])
        written[-1].write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
    return written


def requirements(meta: Mapping[str, Any], *, tokenizer: bool = False) -> tuple[str, ...]:
    """Packages that the script imports."""
    return _kind(meta, Path() if tokenizer else None).needs


def readme(model_file: str, meta: Mapping[str, Any], kind: _Kind | None = None) -> str:
    """The README: how to run the file, what it is, what was measured."""
    kind = kind or _kind(meta, None)
    stem = Path(model_file).stem
    lines = [
        f"# {model_file}", "",
        "```", f"pip install {' '.join(kind.needs)}", f"python {stem}.py {kind.usage}", "```", "",
        f"Model: {meta['model']}. Written by compresskit {meta['compresskit']}.",
        *([f"Edits: {', '.join(meta['edits'])}."] if meta.get("edits") else []),
        *([f"Made with `{meta['command']}`."] if meta.get("command") else []),
        f"Weights: sha256 {meta['weights_sha256']}.", "",
    ]  # fmt: skip
    if wanted := meta.get("preprocessing"):
        inside = _INSIDE if wanted.get("where") == "inside" else ""
        lines += [
            f"Images: {wanted['size'][0]} x {wanted['size'][1]} pixels, {wanted['order']}, scaled to [0, 1], then "
            f"(value - mean) / std with mean {wanted['mean']} and std {wanted['std']}.{inside}", "",
        ]  # fmt: skip
    lines += [*meta.get("interface", []), ""]
    if labels := meta.get("labels"):
        lines += [f"Classes: {len(labels)}, from {labels[0]!r} to {labels[-1]!r}; all in {stem}.labels.txt.", ""]
    if figures := meta.get("figures"):
        rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in figures.items()]
        lines += ["| measured | |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _interface(path: Path) -> list[str]:
    """What a file takes and returns, a line for each; nothing where it is not there yet."""
    if not path.is_file():
        return []
    onnx = require("onnx", "onnx")
    graph, types = onnx.load(path, load_external_data=False).graph, onnx.TensorProto.DataType
    lines = []
    for what, entries in (("Input", graph.input), ("Output", graph.output)):
        for entry in entries:
            kind = entry.type.tensor_type
            sizes = ", ".join(one.dim_param or str(one.dim_value) for one in kind.shape.dim)
            lines.append(f"- {what} `{entry.name}`: {types.Name(kind.elem_type).lower()} ({sizes})")
    return lines


def _kind(meta: Mapping[str, Any], tokenizer: Path | None) -> _Kind:
    if meta.get("preprocessing"):
        return _KINDS["image"]
    return _KINDS["text" if meta.get("text") and tokenizer is not None else "arrays"]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)
